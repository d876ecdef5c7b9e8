/* First process of a host: reaps every orphan, since a dead shim's zombie would look alive to dockerd. */
#include <signal.h>
#include <sys/wait.h>

int main(void)
{
	sigset_t child_ended;
	int number;

	sigemptyset(&child_ended);
	sigaddset(&child_ended, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child_ended, 0);
	for (;;) {
		while (waitpid(-1, 0, WNOHANG) > 0)
			;
		sigwait(&child_ended, &number);
	}
}
