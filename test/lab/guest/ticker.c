/*
 * ticker [FILE [INTERVAL_MS]]: appends "NUMBER SECONDS.NANOSECONDS" to FILE (/ticks, 10 ms) for ever.
 *
 * The wall clock, because CRIU gives a restored task a time namespace in which the monotonic clocks
 * go on from where they stopped: they would hide the very gap that is to be measured.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int main(int count, char **words)
{
	const char *path = count > 1 ? words[1] : "/ticks";
	long interval = count > 2 ? atol(words[2]) : 10;
	struct timespec pause = { interval / 1000, interval % 1000 * 1000000 }, now;
	int file = open(path, O_WRONLY | O_CREAT | O_APPEND, 0644);

	signal(SIGTERM, _exit); /* a first process has no default for it, and docker stop would wait */
	if (file < 0) {
		perror(path);
		return 1;
	}
	for (unsigned long number = 1;; number++) {
		char line[64];
		clock_gettime(CLOCK_REALTIME, &now);
		int length = snprintf(line, sizeof line, "%lu %lld.%09ld\n", number, (long long)now.tv_sec, now.tv_nsec);
		if (write(file, line, length) != length) {
			perror(path);
			return 1;
		}
		nanosleep(&pause, 0);
	}
}
