/*
 * kinds: has memory of each kind that a program has, and looks at all of it every 10 ms.
 *
 * Private, in every second page only, in huge pages (of hugetlb too, where there are such), locked, without any
 * permission, of a file and changed, of a file and not, droppable (of which nothing is expected); shared without a file,
 * with one in memory; a ring for asynchronous input and output; a guard region (which is tried: it must not be there to
 * be read), where the kernel has such; stacks of several threads; a child with the same, half of it changed. Appends
 * "NUMBER SECONDS.NANOSECONDS ok|BAD NUMBER" to /ticks, and what is BAD to /bad.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif
#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 8
#endif
#define PAGE 4096UL
#define SIZE (256 * PAGE)
#define HUGE_SIZE (4UL << 20)
#define THREADS 4

static char *plain, *scattered, *huge, *locked, *hidden, *of_file, *of_same, *shared, *in_memory, *guarded;
static char *hugetlb, *droppable;
static char *stacks[THREADS];
static int guards, good = 1, child;
static sigjmp_buf back;
static pthread_barrier_t begun;

static void must(int held, const char *what)
{
	if (!held) {
		perror(what);
		exit(1);
	}
}

static char *mapped(size_t size, int flags, int file)
{
	char *memory = mmap(0, size, PROT_READ | PROT_WRITE, flags, file, 0);
	must(memory != MAP_FAILED, "mmap");
	return memory;
}

static char sign(size_t page, int salt)
{
	return 1 + (page * 7 + salt) % 250;
}

static void fill(char *memory, size_t size, size_t step, int salt)
{
	for (size_t page = 0; page < size / PAGE; page += step)
		memset(memory + page * PAGE, sign(page, salt), PAGE);
}

static void check(const char *what, const char *memory, size_t size, size_t step, int salt)
{
	for (size_t page = 0; page < size / PAGE; page++) {
		char wanted = page % step ? 0 : sign(page, salt);
		if (memory[page * PAGE] == wanted && memory[page * PAGE + PAGE - 1] == wanted)
			continue;
		int file = open("/bad", O_WRONLY | O_CREAT | O_APPEND, 0644);
		dprintf(file, "%s of %s, page %zu\n", what, child ? "the child" : "the first task", page);
		close(file);
		good = 0;
		return;
	}
}

static void caught(int number)
{
	(void)number;
	siglongjmp(back, 1);
}

static int faults(const char *memory)
{
	volatile int fault = 1;
	if (!sigsetjmp(back, 1)) {
		(void)*(volatile const char *)memory;
		fault = 0;
	}
	return fault;
}

static void *waiting(void *number)
{
	char mine[16 * PAGE];
	char *aligned = (char *)(((size_t)mine + PAGE - 1) & ~(PAGE - 1));
	stacks[(size_t)number] = aligned;
	fill(aligned, 8 * PAGE, 1, 20 + (size_t)number);
	pthread_barrier_wait(&begun);
	for (;;)
		pause();
	return 0;
}

static void look(void)
{
	check("plain memory", plain, SIZE, 1, child ? 30 : 1);
	check("every second page", scattered, SIZE, 2, 2);
	check("huge pages", huge, HUGE_SIZE, 1, 3);
	if (hugetlb != MAP_FAILED)
		check("pages of hugetlb", hugetlb, HUGE_SIZE, 1, 11);
	check("locked memory", locked, SIZE, 1, 4);
	must(!mprotect(hidden, SIZE, PROT_READ), "mprotect");
	check("memory without permission", hidden, SIZE, 1, 5);
	must(!mprotect(hidden, SIZE, PROT_NONE), "mprotect");
	check("changed pages of a file", of_file, SIZE, 1, 6);
	check("pages of a file", of_same, SIZE, 1, 7);
	check("shared memory", shared, SIZE, 1, 8);
	check("a file in memory", in_memory, SIZE, 1, 9);
	check("memory before a guard region", guarded, SIZE / 2, 1, 10);
	if (guards && !(faults(guarded + SIZE / 2) && faults(guarded + SIZE - 1))) {
		good = 0;
		must(open("/bad", O_WRONLY | O_CREAT, 0644) >= 0, "a guard region is none");
	}
	for (int i = 0; !child && i < THREADS; i++)
		check("a stack", stacks[i], 8 * PAGE, 1, 20 + i);
}

static void make(void)
{
	int one = open("/one", O_RDWR | O_CREAT, 0644), file = memfd_create("kinds", 0);
	aio_context_t ring = 0;
	must(one >= 0 && file >= 0 && !ftruncate(one, SIZE) && !ftruncate(file, SIZE), "files");
	plain = mapped(SIZE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	scattered = mapped(SIZE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	huge = mapped(HUGE_SIZE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	madvise(huge, HUGE_SIZE, MADV_HUGEPAGE);
	locked = mapped(SIZE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	must(!mlock(locked, SIZE), "mlock");
	hidden = mapped(SIZE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	shared = mapped(SIZE, MAP_SHARED | MAP_ANONYMOUS, -1);
	in_memory = mapped(SIZE, MAP_SHARED, file);
	guarded = mapped(SIZE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	of_same = mapped(SIZE, MAP_SHARED, one);
	fill(of_same, SIZE, 1, 7);
	munmap(of_same, SIZE);
	of_same = mapped(SIZE, MAP_PRIVATE, one);
	of_file = mapped(SIZE, MAP_PRIVATE, one);
	fill(plain, SIZE, 1, 1);
	fill(scattered, SIZE, 2, 2);
	fill(huge, HUGE_SIZE, 1, 3);
	fill(locked, SIZE, 1, 4);
	fill(hidden, SIZE, 1, 5);
	must(!mprotect(hidden, SIZE, PROT_NONE), "mprotect");
	fill(of_file, SIZE, 1, 6);
	fill(shared, SIZE, 1, 8);
	fill(in_memory, SIZE, 1, 9);
	fill(guarded, SIZE, 1, 10);
	guards = !madvise(guarded + SIZE / 2, SIZE / 2, MADV_GUARD_INSTALL);
	hugetlb = mmap(0, HUGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	if (hugetlb != MAP_FAILED)
		fill(hugetlb, HUGE_SIZE, 1, 11);
	droppable = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0);
	if (droppable != MAP_FAILED)
		fill(droppable, SIZE, 1, 12);
	must(!syscall(SYS_io_setup, 8, &ring), "io_setup");
}

int main(void)
{
	pthread_t thread;
	struct timespec pause = { 0, 10000000 }, now;

	signal(SIGTERM, _exit); /* a first process has no default for it, and docker stop would wait */
	signal(SIGSEGV, caught);
	make();
	child = !fork();
	if (child) {
		fill(plain, SIZE, 1, 30);
	} else {
		pthread_barrier_init(&begun, 0, THREADS + 1);
		for (size_t i = 0; i < THREADS; i++)
			must(!pthread_create(&thread, 0, waiting, (void *)i), "pthread_create");
		pthread_barrier_wait(&begun);
	}
	int file = open("/ticks", O_WRONLY | O_CREAT | O_APPEND, 0644);
	for (unsigned long number = 1;; number++) {
		look();
		good &= access("/bad", F_OK) != 0;
		clock_gettime(CLOCK_REALTIME, &now);
		if (!child)
			dprintf(file, "%lu %lld.%09ld %s %lu\n", number, (long long)now.tv_sec, now.tv_nsec,
				good ? "ok" : "BAD", number);
		nanosleep(&pause, 0);
	}
}
