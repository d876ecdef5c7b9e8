/*
 * workload FILE MIB [HOT_MIB [DIRECTORY PER_MILLE]]: what is hauled when hauls are measured.
 *
 * Fills MIB MiB with bytes that follow from each word's place, so that all of it can be checked with
 * no sums kept, and appends a record to FILE about every millisecond. The wall clock, because CRIU gives
 * a restored task a time namespace in which the monotonic clocks go on from where they stopped.
 * HOT_MIB MiB more are dirtied, all of them about every 100 ms, each page checked to hold what was written
 * to it last. Of the files in DIRECTORY a second process rewrites PER_MILLE thousandths all the time.
 * SIGUSR1 has all memory checked once; the records after it say so. The idle memory is touched only then.
 */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define MIB (1UL << 20)
#define PAGE 4096UL
#define SLICES 100
#define REWRITE_NS 20000000L

struct record {
	uint64_t number, nanoseconds;
	uint32_t checks, errors;
};

static volatile sig_atomic_t asked;

static void ask(int number)
{
	(void)number;
	asked = 1;
}

static void *reserve(size_t bytes)
{
	void *memory = mmap(0, bytes ? bytes : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
	return memory;
}

static uint64_t noise(uint64_t place)
{
	uint64_t word = (place + 1) * 0x9e3779b97f4a7c15UL;
	word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9UL;
	word = (word ^ word >> 27) * 0x94d049bb133111ebUL;
	return word ^ word >> 31;
}

static uint32_t wrong(const uint64_t *words, size_t count)
{
	uint32_t found = 0;
	for (size_t i = 0; i < count; i++)
		found += words[i] != noise(i);
	return found;
}

/* One slice of the hot pages gets the next round's number; each must still have the last round's. */
static uint32_t touch(uint64_t *hot, size_t pages, uint64_t number)
{
	uint64_t round = number / SLICES, slice = number % SLICES;
	uint32_t found = 0;
	for (size_t page = pages * slice / SLICES; page < pages * (slice + 1) / SLICES; page++) {
		uint64_t *word = hot + page * (PAGE / sizeof *hot);
		found += *word != (round ? noise(page + round - 1) : 0);
		*word = noise(page + round);
	}
	return found;
}

static void rewrite(const char *directory, long per_mille)
{
	struct timespec pause = { 0, REWRITE_NS };
	struct dirent **names;
	char path[4096];
	static char block[MIB];
	int count = scandir(directory, &names, 0, alphasort);
	long files = count * per_mille / 1000;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (uint64_t number = 0; files > 0; number++) {
		snprintf(path, sizeof path, "%s/%s", directory, names[2 + number % files]->d_name);
		int file = open(path, O_WRONLY);
		if (file < 0)
			_exit(1);
		for (size_t i = 0; i < sizeof block; i += sizeof number)
			memcpy(block + i, &number, sizeof number);
		if (write(file, block, sizeof block) < 0)
			_exit(1);
		close(file);
		nanosleep(&pause, 0);
	}
	_exit(0);
}

int main(int count, char **words)
{
	if (count < 3)
		return 2;
	size_t cold_words = strtoul(words[2], 0, 10) * MIB / sizeof(uint64_t);
	size_t hot_pages = count > 3 ? strtoul(words[3], 0, 10) * MIB / PAGE : 0;
	uint64_t *cold = reserve(cold_words * sizeof *cold), *hot = reserve(hot_pages * PAGE);
	struct timespec pause = { 0, 1000000 }, now;
	struct record record = { 0 };
	int file = open(words[1], O_WRONLY | O_CREAT | O_APPEND, 0644);

	signal(SIGTERM, _exit); /* a first process has no default for it, and docker stop would wait */
	signal(SIGUSR1, ask);
	if (file < 0)
		return 1;
	for (size_t i = 0; i < cold_words; i++)
		cold[i] = noise(i);
	if (count > 5 && fork() == 0)
		rewrite(words[4], atol(words[5]));
	for (;; record.number++) {
		record.errors += touch(hot, hot_pages, record.number);
		if (asked) {
			asked = 0;
			record.errors += wrong(cold, cold_words);
			record.checks++;
		}
		clock_gettime(CLOCK_REALTIME, &now);
		record.nanoseconds = now.tv_sec * 1000000000UL + now.tv_nsec;
		if (write(file, &record, sizeof record) != sizeof record)
			return 1;
		nanosleep(&pause, 0);
	}
}
