/*
 * enter PID [CGROUP_DIR...] -- COMMAND...
 *
 * Runs a command inside the host whose first process is PID, as a member of the given cgroups.
 * The command dies with this process, signals sent to this process reach it, and its end is mirrored:
 * so killing what Popen holds outside kills the command inside, which nsenter(1) does not do.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LAB_FAILED = 125, CANNOT_RUN = 126, NOT_FOUND = 127 };

static void fail(const char *what)
{
	fprintf(stderr, "enter: %s: %s\n", what, strerror(errno));
	exit(LAB_FAILED);
}

static int open_process(pid_t pid)
{
	int fd = syscall(SYS_pidfd_open, pid, 0);
	if (fd < 0)
		fail("pidfd_open");
	return fd;
}

static void join_cgroup(const char *directory)
{
	char path[4096];
	snprintf(path, sizeof path, "%s/cgroup.procs", directory);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "0", 1) != 1)
		fail(path);
	close(fd);
}

static void join_namespaces(pid_t pid)
{
	int host = open_process(pid);
	if (setns(host, CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWCGROUP) < 0)
		fail("setns");
	close(host);
	if (chdir("/") < 0)
		fail("chdir");
}

static void become(char **command, int parent, const sigset_t *mask)
{
	struct pollfd ended = { .fd = parent, .events = POLLIN };
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (poll(&ended, 1, 0) != 0) /* the parent was killed before the line above took effect */
		_exit(LAB_FAILED);
	sigprocmask(SIG_SETMASK, mask, NULL);
	execvp(command[0], command);
	fprintf(stderr, "%s: %s\n", command[0], strerror(errno));
	_exit(errno == ENOENT ? NOT_FOUND : CANNOT_RUN);
}

static void mirror(int status)
{
	struct rlimit no_core = { 0, 0 };
	sigset_t all;
	if (WIFEXITED(status))
		exit(WEXITSTATUS(status));
	setrlimit(RLIMIT_CORE, &no_core);
	signal(WTERMSIG(status), SIG_DFL);
	raise(WTERMSIG(status));
	sigfillset(&all);
	sigprocmask(SIG_UNBLOCK, &all, NULL);
	exit(128 + WTERMSIG(status));
}

static void attend(pid_t child, const sigset_t *watched)
{
	for (;;) {
		siginfo_t info;
		int status;
		int signal_number = sigwaitinfo(watched, &info);
		if (signal_number == SIGCHLD) {
			if (waitpid(child, &status, WNOHANG) == child)
				mirror(status);
		} else if (signal_number > 0 && info.si_code != SI_KERNEL) {
			kill(child, signal_number); /* those of a terminal reach the whole group anyway */
		}
	}
}

int main(int count, char **words)
{
	static const int forwarded[] = { SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2 };
	sigset_t watched, before;
	int word = 2;

	if (count < 4)
		return LAB_FAILED;
	int self = open_process(getpid());
	for (; word < count && strcmp(words[word], "--") != 0; word++)
		join_cgroup(words[word]);
	if (word + 1 >= count)
		return LAB_FAILED;
	join_namespaces(atoi(words[1]));

	sigemptyset(&watched);
	for (size_t i = 0; i < sizeof forwarded / sizeof *forwarded; i++)
		sigaddset(&watched, forwarded[i]);
	sigprocmask(SIG_BLOCK, &watched, &before);
	pid_t child = fork();
	if (child < 0)
		fail("fork");
	if (child == 0)
		become(words + word + 1, self, &before);
	attend(child, &watched);
}
