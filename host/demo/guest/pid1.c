// SPDX-License-Identifier: Apache-2.0
/* PID 1 of the throw-away guest, awake, asleep or frozen. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "actor.h"

static volatile sig_atomic_t freeze_wanted;

static void want_freeze(int signal)
{
	(void)signal;
	freeze_wanted = 1;
}

/* In one write: the kernel's own lines shall not come between. */
static void announce(const char *line)
{
	char text[256];
	int length = snprintf(text, sizeof(text), "%s\n", line);

	if (write(STDOUT_FILENO, text, length) != length)
		die("console");
}

/* "asleep LINE": PID 1 that does nothing, for ever. */
int do_asleep(int argc, char **argv)
{
	announce(argc > 1 ? argv[1] : "asleep");
	sleep_for_ever();
}

static pid_t start_shell(const char *tty)
{
	pid_t child = fork();
	int fd;

	if (child)
		return child;
	setsid();
	fd = open(tty, O_RDWR);
	if (fd < 0)
		_exit(1);
	ioctl(fd, TIOCSCTTY, 0);
	dup2(fd, 0);
	dup2(fd, 1);
	dup2(fd, 2);
	if (fd > 2)
		close(fd);
	execl("/bin/sh", "-sh", NULL);
	_exit(127);
}

/* Whether a process is stopped, gone or dead, or a kernel thread; "PID (COMM) STATE PPID PGRP SESSION TTY TPGID FLAGS". */
static int stands_still(const char *pid)
{
	char path[64], stat[512], *rest, state;
	unsigned int flags;
	int fd, length;

	snprintf(path, sizeof(path), "/proc/%s/stat", pid);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return 1;
	length = read(fd, stat, sizeof(stat) - 1);
	close(fd);
	stat[length > 0 ? length : 0] = 0;
	rest = strrchr(stat, ')');
	if (!rest || sscanf(rest, ") %c %*d %*d %*d %*d %*d %u", &state, &flags) != 2)
		return 1;
	return strchr("TtZX", state) || flags & 0x00200000 /* PF_KTHREAD */;
}

/* A signal to stop takes effect when its process runs next: waits until all but PID 1 and the caller have. */
static void await_standstill(void)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	int moving = 1;

	while (proc && moving) {
		moving = 0;
		rewinddir(proc);
		while ((entry = readdir(proc))) {
			pid_t pid = atoi(entry->d_name);

			if (pid > 1 && pid != getpid())
				moving |= !stands_still(entry->d_name);
		}
		sched_yield();
	}
}

/*
 * The caller sleeps uninterruptibly (state D) in vfork() for as long as the child neither execs nor exits. The child
 * stops every process but PID 1 and itself, says so on the console, and stops: nothing of user space runs any more.
 */
static void freeze_for_ever(void)
{
	static const char done[] = "VESPER-GUEST FROZEN\n";

	if (vfork() == 0) {
		int console = open("/dev/console", O_WRONLY | O_NOCTTY);

		kill(-1, SIGSTOP);
		await_standstill();
		if (write(console, done, sizeof(done) - 1) < 0)
			_exit(1);
		for (;;)
			kill(getpid(), SIGSTOP);
	}
}

/* "init LINE TTY...": says LINE, keeps a shell on each terminal, reaps, and freezes on SIGUSR1. */
_Noreturn int do_init(int argc, char **argv)
{
	/* No SA_RESTART: the signal has to end wait(). The freezer repeats it, so one that comes just before is not lost. */
	struct sigaction action = { .sa_handler = want_freeze };
	pid_t shells[argc];

	for (int i = 2; i < argc; i++)
		shells[i] = start_shell(argv[i]);
	sigaction(SIGUSR1, &action, NULL);
	announce(argc > 1 ? argv[1] : "init");
	for (;;) {
		pid_t gone = wait(NULL);

		if (freeze_wanted)
			freeze_for_ever();
		for (int i = 2; i < argc && gone > 0; i++) {
			if (gone == shells[i])
				shells[i] = start_shell(argv[i]);
		}
	}
}

/* Asks PID 1 to freeze the whole of user space, itself included. Does not return. */
_Noreturn int do_freeze(int argc, char **argv)
{
	const struct timespec pause_between = { .tv_nsec = 50000000 };

	(void)argc;
	(void)argv;
	for (;;) {
		if (kill(1, SIGUSR1))
			die("kill");
		nanosleep(&pause_between, NULL);
	}
}
