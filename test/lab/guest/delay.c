/*
 * delay ONE OTHER MILLISECONDS: carries frames between two network interfaces, each so much later than it came.
 *
 * Frames are taken and given with their offload headers, so that large ones stay whole. What waits is bounded:
 * what comes while LIMIT bytes wait in one direction is dropped, as by a router.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { LARGEST = 70000, LIMIT = 32 << 20, BATCH = 64 };

struct frame {
	struct frame *next;
	uint64_t due;
	size_t length;
	char bytes[];
};

struct way {
	int from, to;
	struct frame *first, **last;
	size_t waiting;
};

static uint64_t delay;

static uint64_t now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000UL + time.tv_nsec;
}

static int open_interface(const char *name)
{
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, 0), on = 1, room = LIMIT;
	struct sockaddr_ll address = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL),
		.sll_ifindex = if_nametoindex(name) };
	if (fd < 0 || setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof on) ||
	    setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof on) ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room) ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room) ||
	    bind(fd, (struct sockaddr *)&address, sizeof address)) {
		perror(name);
		exit(1);
	}
	return fd;
}

static void take(struct way *way)
{
	static char buffer[LARGEST];
	for (int i = 0; i < BATCH; i++) {
		ssize_t length = recv(way->from, buffer, sizeof buffer, 0);
		if (length <= 0)
			return;
		struct frame *frame = way->waiting + length > LIMIT ? NULL : malloc(sizeof *frame + length);
		if (!frame)
			continue;
		*frame = (struct frame){ .due = now() + delay, .length = length };
		memcpy(frame->bytes, buffer, length);
		*way->last = frame;
		way->last = &frame->next;
		way->waiting += length;
	}
}

/* Gives what is due; nanoseconds until the next is, or -1. */
static int64_t give(struct way *way)
{
	while (way->first) {
		struct frame *frame = way->first;
		int64_t left = frame->due - now();
		if (left > 0)
			return left;
		if (send(way->to, frame->bytes, frame->length, 0) < 0 && (errno == EAGAIN || errno == ENOBUFS))
			return 100000;
		way->first = frame->next;
		if (!way->first)
			way->last = &way->first;
		way->waiting -= frame->length;
		free(frame);
	}
	return -1;
}

int main(int count, char **words)
{
	if (count != 4)
		return 2;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	delay = strtod(words[3], 0) * 1000000;
	int one = open_interface(words[1]), other = open_interface(words[2]);
	struct way ways[] = { { .from = one, .to = other }, { .from = other, .to = one } };
	struct pollfd polled[] = { { .fd = one, .events = POLLIN }, { .fd = other, .events = POLLIN } };
	for (int i = 0; i < 2; i++)
		ways[i].last = &ways[i].first;
	puts("ready");
	fflush(stdout);
	for (;;) {
		int64_t wait = -1;
		for (int i = 0; i < 2; i++) {
			take(&ways[i]);
			int64_t left = give(&ways[i]);
			if (left >= 0 && (wait < 0 || left < wait))
				wait = left;
		}
		struct timespec limit = { wait / 1000000000, wait % 1000000000 };
		ppoll(polled, 2, wait < 0 ? NULL : &limit, NULL);
	}
}
