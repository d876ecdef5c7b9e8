/*
 * memhog MIB [HOT_MIB [BITS [FILE]]]: fills MIB MiB with random bytes and writes to HOT_MIB MiB more all the time.
 * Of each 8-byte word BITS bits are random, all where it is left out; the others are zero.
 *
 * Every 10 ms it checks one MiB of the first kind against the checksum taken when it was filled and
 * appends "NUMBER SECONDS.NANOSECONDS ok|BAD PASSES" to /ticks; PASSES counts how many times all of
 * the memory has been checked. A hot page that does not hold what was last written to it is BAD too.
 * The same line goes to FILE before. Where there is no room for it, it waits until there is.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MIB (1UL << 20)
#define PAGE 4096UL

static uint64_t *reserve(size_t mib)
{
	void *memory = mmap(0, mib * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
	return memory;
}

static uint64_t checksum(const uint64_t *words)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < MIB / sizeof *words; i++)
		sum = (sum << 7 | sum >> 57) ^ words[i];
	return sum;
}

static void fill(uint64_t *words, size_t count, uint64_t mask)
{
	static uint64_t state = 88172645463325252UL;
	for (size_t i = 0; i < count; i++) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		words[i] = state & mask;
	}
}

static int touch(uint64_t *hot, size_t mib, uint64_t number)
{
	int good = 1;
	for (size_t offset = 0; offset < mib * MIB; offset += PAGE) {
		uint64_t *word = hot + offset / sizeof *hot;
		good &= *word == number - 1;
		*word = number;
	}
	return good;
}

static void append(int file, const char *line, int length)
{
	struct timespec pause = { 0, 10000000 };
	while (length > 0) {
		ssize_t written = write(file, line, length);
		if (written < 0) {
			nanosleep(&pause, 0);
			continue;
		}
		line += written;
		length -= written;
	}
}

static int opened(const char *path)
{
	return open(path, O_WRONLY | O_CREAT | O_APPEND, 0644);
}

int main(int count, char **words)
{
	size_t mib = count > 1 ? strtoul(words[1], 0, 10) : 16;
	size_t hot_mib = count > 2 ? strtoul(words[2], 0, 10) : 0;
	size_t bits = count > 3 ? strtoul(words[3], 0, 10) : 64;
	uint64_t mask = bits < 64 ? (1UL << bits) - 1 : ~0UL;
	uint64_t *cold = reserve(mib ? mib : 1), *hot = reserve(hot_mib ? hot_mib : 1);
	uint64_t *sums = calloc(mib + 1, sizeof *sums);
	struct timespec pause = { 0, 10000000 }, now;
	int file = opened("/ticks"), second = count > 4 ? opened(words[4]) : -1;
	int good = 1;

	signal(SIGTERM, _exit); /* a first process has no default for it, and docker stop would wait */
	if (file < 0 || (count > 4 && second < 0) || !sums)
		return 1;
	for (size_t i = 0; i < mib; i++) {
		fill(cold + i * (MIB / sizeof *cold), MIB / sizeof *cold, mask);
		sums[i] = checksum(cold + i * (MIB / sizeof *cold));
	}
	for (uint64_t number = 1;; number++) {
		size_t at = mib ? (number - 1) % mib : 0;
		if (mib)
			good &= checksum(cold + at * (MIB / sizeof *cold)) == sums[at];
		good &= touch(hot, hot_mib, number);
		clock_gettime(CLOCK_REALTIME, &now);
		char line[96];
		int length = snprintf(line, sizeof line, "%lu %lld.%09ld %s %lu\n", number, (long long)now.tv_sec,
				      now.tv_nsec, good ? "ok" : "BAD", mib ? number / mib : number);
		if (second >= 0)
			append(second, line, length);
		append(file, line, length);
		nanosleep(&pause, 0);
	}
}
