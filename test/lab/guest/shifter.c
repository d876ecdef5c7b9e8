/*
 * shifter [MIB [PAUSE_MS]]: MIB MiB of known words in mappings of 1 MiB each, which are on the move all the time.
 *
 * Each PAUSE_MS ms (5) it does one thing to one of them, and another thing to the next one: forks a
 * child that checks some pages and ends, moves it elsewhere, drops it (it must read zeros) and fills
 * it again, unmaps and maps it anew, or splits it by protecting a part. A thread checks all pages in
 * random order meanwhile. Then it appends "NUMBER SECONDS.NANOSECONDS ok|BAD PASSES" to /ticks;
 * PASSES is how many times the thread has seen every page. What is BAD is told on standard error.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PIECE (1UL << 20)
#define PAGE 4096UL
#define PAGES (PIECE / PAGE)
#define WORDS (PAGE / sizeof(uint64_t))
#define CHECKED_BY_CHILD 16

static size_t pieces;
static uint64_t **at;
static uint64_t *seeds; /* 0: the piece is of zeros */
static pthread_rwlock_t *locks;
static volatile int bad;
static volatile unsigned long passes;

static uint64_t word(uint64_t seed, size_t page)
{
	uint64_t x = seed + page * 0x9e3779b97f4a7c15UL;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9UL;
	return seed ? x ^ x >> 27 : 0;
}

static void must(int good, const char *what)
{
	if (!good) {
		perror(what);
		exit(1);
	}
}

/* Every word of the page is the page's own plus the word's number, or all are zero. */
static int page_is_right(size_t piece, size_t page)
{
	uint64_t *words = at[piece] + page * WORDS, first = word(seeds[piece], page);
	for (size_t i = 0; i < WORDS; i++)
		if (words[i] != (first ? first + i : 0)) {
			dprintf(2, "piece %zu at %p, page %zu, word %zu: %lx, not %lx\n", piece, (void *)at[piece], page, i,
				words[i], first ? first + i : 0);
			return 0;
		}
	return 1;
}

static void fill(size_t piece, uint64_t seed)
{
	seeds[piece] = seed;
	for (size_t page = 0; page < PAGES; page++)
		for (size_t i = 0; i < WORDS; i++)
			at[piece][page * WORDS + i] = word(seed, page) + i;
}

static uint64_t next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	return *state ^= *state << 17;
}

static void *map(void)
{
	/* A page of nothing behind it, so that no two of them become one mapping. */
	char *where = mmap(0, PIECE + PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(where != MAP_FAILED && !mprotect(where, PIECE, PROT_READ | PROT_WRITE), "mmap");
	return where;
}

static void *reader(void *unused)
{
	size_t count = pieces * PAGES, *order = malloc(count * sizeof *order);
	uint64_t random = 88172645463325252UL;

	for (size_t i = 0; i < count; i++)
		order[i] = i;
	for (;; passes++) {
		for (size_t i = count - 1; i; i--) {
			size_t other = next(&random) % (i + 1), kept = order[i];
			order[i] = order[other];
			order[other] = kept;
		}
		for (size_t i = 0; i < count; i++) {
			size_t piece = order[i] / PAGES;
			pthread_rwlock_rdlock(&locks[piece]);
			bad |= !page_is_right(piece, order[i] % PAGES);
			pthread_rwlock_unlock(&locks[piece]);
		}
	}
	return unused;
}

static void fork_a_child(uint64_t *random)
{
	int status;
	pid_t child = fork();
	must(child >= 0, "fork");
	if (!child) {
		int wrong = 0;
		for (int i = 0; i < CHECKED_BY_CHILD; i++)
			wrong |= !page_is_right(next(random) % pieces, next(random) % PAGES);
		_exit(wrong);
	}
	must(waitpid(child, &status, 0) == child, "waitpid");
	bad |= !WIFEXITED(status) || WEXITSTATUS(status);
	next(random);
}

static void move(size_t piece)
{
	uint64_t *to = map();
	must(mremap(at[piece], PIECE, PIECE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to, "mremap");
	munmap((char *)at[piece] + PIECE, PAGE);
	at[piece] = to;
}

static void drop(size_t piece, uint64_t seed)
{
	must(!madvise(at[piece], PIECE, MADV_DONTNEED), "madvise");
	seeds[piece] = 0;
	bad |= !page_is_right(piece, seed % PAGES);
	fill(piece, seed);
}

static void map_anew(size_t piece, uint64_t seed)
{
	munmap(at[piece], PIECE + PAGE);
	at[piece] = map();
	seeds[piece] = 0;
	bad |= !page_is_right(piece, seed % PAGES);
	fill(piece, seed);
}

static void split(size_t piece, size_t page)
{
	char *part = (char *)at[piece] + page % PAGES * PAGE;
	must(!mprotect(part, PAGE, PROT_READ), "mprotect");
	bad |= !page_is_right(piece, page % PAGES);
	if (page % 2)
		must(!mprotect(part, PAGE, PROT_READ | PROT_WRITE), "mprotect");
	else
		must(!mprotect(at[piece], PIECE, PROT_READ | PROT_WRITE), "mprotect");
}

static void shift(unsigned long number, uint64_t *random)
{
	size_t piece = next(random) % pieces;
	uint64_t seed = next(random);

	pthread_rwlock_wrlock(&locks[piece]);
	switch (number % 5) {
	case 0: fork_a_child(random); break;
	case 1: move(piece); break;
	case 2: split(piece, seed); break;
	/* Seldom, since what is filled anew is missing no more. */
	case 3: if (number % 40 < 20) drop(piece, seed); break;
	default: if (number % 40 < 20) map_anew(piece, seed);
	}
	pthread_rwlock_unlock(&locks[piece]);
}

int main(int count, char **words)
{
	struct timespec pause = { 0, (count > 2 ? atol(words[2]) : 5) * 1000000 }, now;
	uint64_t random = 1181783497276652981UL;
	int file = open("/ticks", O_WRONLY | O_CREAT | O_APPEND, 0644);
	pthread_t thread;

	signal(SIGTERM, _exit); /* a first process has no default for it, and docker stop would wait */
	pieces = count > 1 ? strtoul(words[1], 0, 10) : 16;
	at = calloc(pieces, sizeof *at);
	seeds = calloc(pieces, sizeof *seeds);
	locks = calloc(pieces, sizeof *locks);
	must(file >= 0 && at && seeds && locks, "start");
	for (size_t piece = 0; piece < pieces; piece++) {
		pthread_rwlock_init(&locks[piece], 0);
		at[piece] = map();
		fill(piece, next(&random));
	}
	must(!pthread_create(&thread, 0, reader, 0), "thread");
	for (unsigned long number = 1;; number++) {
		shift(number, &random);
		clock_gettime(CLOCK_REALTIME, &now);
		dprintf(file, "%lu %lld.%09ld %s %lu\n", number, (long long)now.tv_sec, now.tv_nsec, bad ? "BAD" : "ok",
			passes);
		nanosleep(&pause, 0);
	}
}
