// SPDX-License-Identifier: Apache-2.0
/*
 * What happens in the throw-away guest: one static program whose commands make the events that probes are to see.
 * "actor [--name COMM] COMMAND ..." ; "actor help" lists the commands.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "actor.h"

void die(const char *what)
{
	fprintf(stderr, "actor: %s: %s\n", what, strerror(errno));
	exit(1);
}

static unsigned long long number(const char *text)
{
	char *end;
	unsigned long long value = strtoull(text, &end, 0);

	if (end == text || *end) {
		fprintf(stderr, "actor: %s is not a number\n", text);
		exit(2);
	}
	return value;
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * UINT64_C(1000000000) + now.tv_nsec;
}

_Noreturn void sleep_for_ever(void)
{
	for (;;)
		pause();
}

/* --- faults ---------------------------------------------------------------------------------------------------- */

static int do_segv(int argc, char **argv)
{
	volatile char *nothing = (volatile char *)(uintptr_t)(argc > 1 ? number(argv[1]) : 0xdead000);

	*nothing = 1;
	return 1;
}

/* Touches the page behind the end of a mapped file; the address is printed first. */
static int do_bus(int argc, char **argv)
{
	int fd = memfd_create("bus", 0);
	volatile char *page;

	(void)argc;
	(void)argv;
	if (fd < 0 || ftruncate(fd, 0))
		die("memfd");
	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (page == MAP_FAILED)
		die("mmap");
	printf("0x%llx\n", (unsigned long long)(uintptr_t)page);
	fflush(stdout);
	*page = 1;
	return 1;
}

static int do_abort(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	abort();
}

static int do_pause(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	sleep_for_ever();
}

static int do_kill(int argc, char **argv)
{
	if (argc < 3) {
		fprintf(stderr, "actor kill PID SIGNAL\n");
		return 2;
	}
	if (kill((pid_t)number(argv[1]), (int)number(argv[2])))
		die("kill");
	return 0;
}

/* The kernel itself sends SIGNAL after MS milliseconds, and then every EVERY_MS: it needs no running process. */
static int do_timebomb(int argc, char **argv)
{
	unsigned long long ms = argc > 1 ? number(argv[1]) : 1000, every = argc > 3 ? number(argv[3]) : 0;
	struct sigevent event = {
		.sigev_notify = SIGEV_SIGNAL,
		.sigev_signo = argc > 2 ? (int)number(argv[2]) : SIGKILL,
	};
	struct itimerspec when = {
		.it_value = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 },
		.it_interval = { .tv_sec = every / 1000, .tv_nsec = every % 1000 * 1000000 },
	};
	timer_t timer;

	if (timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &when, NULL))
		die("timer");
	sleep_for_ever();
}

/* --- memory ---------------------------------------------------------------------------------------------------- */

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		die(path);
	close(fd);
}

/* Touches memory, for ever or up to a limit; made the OOM killer's first choice. */
static int do_eat(int argc, char **argv)
{
	unsigned long long mib = argc > 1 ? number(argv[1]) : ~0ULL;

	write_file("/proc/self/oom_score_adj", "1000");
	for (unsigned long long eaten = 0; eaten < mib; eaten++) {
		char *chunk = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (chunk == MAP_FAILED)
			die("mmap");
		memset(chunk, 0x5a, 1 << 20);
	}
	printf("%llu MiB\n", mib);
	fflush(stdout);
	sleep_for_ever();
}

/* --- storms ---------------------------------------------------------------------------------------------------- */

static void signal_self(unsigned long long count)
{
	pid_t self = getpid();

	while (count--)
		kill(self, SIGUSR2);
}

/* N ignored signals, each of which goes through the kernel's send path; prints "count nanoseconds". */
static int do_storm(int argc, char **argv)
{
	unsigned long long count = argc > 1 ? number(argv[1]) : 1000000, procs = argc > 2 ? number(argv[2]) : 1;
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	int gate[2];
	uint64_t start;

	if (procs < 1 || procs > 1024) {
		fprintf(stderr, "actor storm: 1 to 1024 processes\n");
		return 2;
	}
	signal(SIGUSR2, SIG_IGN);
	if (pipe(gate))
		die("pipe");
	for (unsigned long long i = 0; i < procs; i++) {
		pid_t child = fork();
		char byte;

		if (child < 0)
			die("fork");
		if (child)
			continue;
		cpu_set_t cpu;

		CPU_ZERO(&cpu);
		CPU_SET(i % cpus, &cpu);
		sched_setaffinity(0, sizeof(cpu), &cpu);
		close(gate[1]);
		if (read(gate[0], &byte, 1) != 0)
			die("gate");
		signal_self(count / procs + (i < count % procs));
		_exit(0);
	}
	start = now_ns();
	close(gate[1]);
	while (wait(NULL) > 0 || errno == EINTR)
		;
	printf("%llu %llu\n", count, (unsigned long long)(now_ns() - start));
	return 0;
}

/* ROUNDS lines with the nanoseconds that N calls of kill() took. */
static int do_killloop(int argc, char **argv)
{
	unsigned long long count = argc > 1 ? number(argv[1]) : 100000, rounds = argc > 2 ? number(argv[2]) : 1;

	signal(SIGUSR2, SIG_IGN);
	while (rounds--) {
		uint64_t start = now_ns();

		signal_self(count);
		printf("%llu\n", (unsigned long long)(now_ns() - start));
	}
	return 0;
}

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *help;
} commands[] = {
	{ "segv", do_segv, "[ADDRESS]  write to an unmapped address, 0xdead000 unless given" },
	{ "bus", do_bus, "touch a page behind the end of a file; prints its address" },
	{ "abort", do_abort, "abort()" },
	{ "pause", do_pause, "sleep until killed" },
	{ "victim", do_pause, "sleep until killed" },
	{ "kill", do_kill, "PID SIGNAL" },
	{ "timebomb", do_timebomb, "[MS [SIGNAL [EVERY_MS]]]  let the kernel send this process a signal" },
	{ "eat", do_eat, "[MIB]  touch memory until the OOM killer comes" },
	{ "storm", do_storm, "[N [PROCS]]  N ignored signals; prints count and ns" },
	{ "killloop", do_killloop, "[N [ROUNDS]]  ns for N kill() calls, one line a round" },
	{ "freeze", do_freeze, "stop all processes and put PID 1 into uninterruptible sleep" },
	{ "asleep", do_asleep, "LINE  say LINE, sleep for ever" },
	{ "init", do_init, "LINE TTY...  say LINE, be PID 1 with a shell on each terminal" },
};

int main(int argc, char **argv)
{
	if (argc > 2 && strcmp(argv[1], "--name") == 0) {
		prctl(PR_SET_NAME, argv[2]);
		argc -= 2;
		argv += 2;
	}
	for (size_t i = 0; argc > 1 && i < sizeof(commands) / sizeof(*commands); i++) {
		if (strcmp(argv[1], commands[i].name) == 0)
			return commands[i].run(argc - 1, argv + 1);
	}
	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++)
		printf("actor %s %s\n", commands[i].name, commands[i].help);
	return 2;
}
