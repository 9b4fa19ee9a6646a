// SPDX-License-Identifier: Apache-2.0
/*
 * What VESPER is measured against, inside the guest, without any library:
 *
 *   peer bpf SYMBOL [EPOLL]   a BPF program on a kprobe that writes 64 bytes into a BPF ring buffer for each call. Takes them
 *                             out every 10 ms, or, with EPOLL, whenever it is woken
 *   peer relay FILE           reads a file of the kernel's relay every 10 ms
 *
 * SIGTERM ends either; they print how many records they read.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Room for all that is written while the reader does not come to run. */
#define RING_BYTES (1 << 24)
#define RECORD_BYTES 64

static void die(const char *what)
{
	fprintf(stderr, "peer: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* --- BPF --------------------------------------------------------------------------------------------------------- */

static int bpf(enum bpf_cmd command, union bpf_attr *attr)
{
	return syscall(SYS_bpf, command, attr, sizeof(*attr));
}

#define OP(_code, _dst, _src, _off, _imm) \
	{ .code = (_code), .dst_reg = (_dst), .src_reg = (_src), .off = (_off), .imm = (_imm) }
#define MOVE(_dst, _src) OP(BPF_ALU64 | BPF_MOV | BPF_X, _dst, _src, 0, 0)
#define MOVE_NUMBER(_dst, _value) OP(BPF_ALU64 | BPF_MOV | BPF_K, _dst, 0, 0, _value)
#define ADD_NUMBER(_dst, _value) OP(BPF_ALU64 | BPF_ADD | BPF_K, _dst, 0, 0, _value)
#define LOAD(_dst, _src, _off) OP(BPF_LDX | BPF_MEM | BPF_DW, _dst, _src, _off, 0)
#define STORE(_dst, _off, _src) OP(BPF_STX | BPF_MEM | BPF_DW, _dst, _src, _off, 0)
#define CALL(_helper) OP(BPF_JMP | BPF_CALL, 0, 0, 0, _helper)
#define SKIP_IF_NOT_ZERO(_reg, _count) OP(BPF_JMP | BPF_JNE | BPF_K, _reg, 0, _count, 0)
#define RETURN OP(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)
#define LOAD_MAP(_dst, _fd) OP(BPF_LD | BPF_DW | BPF_IMM, _dst, BPF_PSEUDO_MAP_FD, 0, _fd), OP(0, 0, 0, 0, 0)

/* struct pt_regs of x86-64: where the first and the third argument are. */
#define FIRST_ARGUMENT 112
#define THIRD_ARGUMENT 96

/*
 * The record: time, CPU and number of the record's event; who runs; both arguments; the name of who runs. What a record of
 * VESPER holds, but for the sequence number and the fields of the target, which would cost more.
 */
static int program_load(int ring)
{
	const struct bpf_insn program[] = {
		MOVE(BPF_REG_6, BPF_REG_1),
		LOAD_MAP(BPF_REG_1, ring),
		MOVE_NUMBER(BPF_REG_2, RECORD_BYTES),
		MOVE_NUMBER(BPF_REG_3, 0),
		CALL(BPF_FUNC_ringbuf_reserve),
		SKIP_IF_NOT_ZERO(BPF_REG_0, 1),
		RETURN,
		MOVE(BPF_REG_7, BPF_REG_0),
		CALL(BPF_FUNC_ktime_get_boot_ns),
		STORE(BPF_REG_7, 0, BPF_REG_0),
		CALL(BPF_FUNC_get_smp_processor_id),
		STORE(BPF_REG_7, 8, BPF_REG_0),
		CALL(BPF_FUNC_get_current_pid_tgid),
		STORE(BPF_REG_7, 16, BPF_REG_0),
		LOAD(BPF_REG_1, BPF_REG_6, FIRST_ARGUMENT),
		STORE(BPF_REG_7, 24, BPF_REG_1),
		LOAD(BPF_REG_1, BPF_REG_6, THIRD_ARGUMENT),
		STORE(BPF_REG_7, 32, BPF_REG_1),
		MOVE_NUMBER(BPF_REG_1, 0),
		STORE(BPF_REG_7, 56, BPF_REG_1),
		MOVE(BPF_REG_1, BPF_REG_7),
		ADD_NUMBER(BPF_REG_1, 40),
		MOVE_NUMBER(BPF_REG_2, 16),
		CALL(BPF_FUNC_get_current_comm),
		MOVE(BPF_REG_1, BPF_REG_7),
		MOVE_NUMBER(BPF_REG_2, 0),
		CALL(BPF_FUNC_ringbuf_submit),
		MOVE_NUMBER(BPF_REG_0, 0),
		RETURN,
	};
	static char log[1 << 16];
	union bpf_attr attr;
	int fd;

	memset(&attr, 0, sizeof(attr));
	attr.prog_type = BPF_PROG_TYPE_KPROBE;
	attr.insns = (uintptr_t)program;
	attr.insn_cnt = sizeof(program) / sizeof(*program);
	attr.license = (uintptr_t) "GPL";
	attr.log_buf = (uintptr_t)log;
	attr.log_size = sizeof(log);
	attr.log_level = 1;
	fd = bpf(BPF_PROG_LOAD, &attr);
	if (fd < 0) {
		fputs(log, stderr);
		die("BPF_PROG_LOAD");
	}
	return fd;
}

static int ring_create(void)
{
	union bpf_attr attr;
	int fd;

	memset(&attr, 0, sizeof(attr));
	attr.map_type = BPF_MAP_TYPE_RINGBUF;
	attr.max_entries = RING_BYTES;
	fd = bpf(BPF_MAP_CREATE, &attr);
	if (fd < 0)
		die("BPF_MAP_CREATE");
	return fd;
}

static int kprobe_attach(const char *symbol, int program)
{
	struct perf_event_attr attr = { .size = sizeof(attr), .kprobe_func = (uintptr_t)symbol, .sample_period = 1, .wakeup_events = 1 };
	FILE *type = fopen("/sys/bus/event_source/devices/kprobe/type", "r");
	int fd;

	if (!type || fscanf(type, "%u", &attr.type) != 1)
		die("type of kprobe events");
	fclose(type);
	fd = syscall(SYS_perf_event_open, &attr, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);
	if (fd < 0)
		die("perf_event_open");
	if (ioctl(fd, PERF_EVENT_IOC_SET_BPF, program) || ioctl(fd, PERF_EVENT_IOC_ENABLE, 0))
		die("PERF_EVENT_IOC_SET_BPF");
	return fd;
}

static const struct timespec ten_ms = { .tv_nsec = 10000000 };
static volatile sig_atomic_t enough;

static void on_term(int signal)
{
	(void)signal;
	enough = 1;
}

/* As ring_buffer__poll() of libbpf. */
static uint64_t ring_read(volatile uint64_t *consumer, const volatile uint64_t *producer, const uint8_t *data)
{
	static uint8_t copy[RECORD_BYTES];
	uint64_t at = *consumer, read = 0;

	while (at < __atomic_load_n(producer, __ATOMIC_ACQUIRE)) {
		const uint32_t *header = (const uint32_t *)(data + (at & (RING_BYTES - 1)));
		uint32_t length = __atomic_load_n(header, __ATOMIC_ACQUIRE);

		if (length & BPF_RINGBUF_BUSY_BIT)
			break;
		at += BPF_RINGBUF_HDR_SZ + (((length & ~BPF_RINGBUF_DISCARD_BIT) + 7) & ~7u);
		memcpy(copy, header + 2, sizeof(copy));
		__atomic_store_n(consumer, at, __ATOMIC_RELEASE);
		read++;
	}
	return read;
}

static int do_bpf(const char *symbol, int epoll)
{
	struct epoll_event event = { .events = EPOLLIN };
	struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };
	uint64_t *consumer, read = 0;
	uint8_t *producer;
	int ring, wait = -1;

	setrlimit(RLIMIT_MEMLOCK, &all);
	signal(SIGTERM, on_term);
	ring = ring_create();
	consumer = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ring, 0);
	producer = mmap(NULL, 4096 + 2 * RING_BYTES, PROT_READ, MAP_SHARED, ring, 4096);
	if (consumer == MAP_FAILED || producer == MAP_FAILED)
		die("mmap");
	if (epoll) {
		wait = epoll_create1(0);
		if (wait < 0 || epoll_ctl(wait, EPOLL_CTL_ADD, ring, &event))
			die("epoll");
	}
	kprobe_attach(symbol, program_load(ring));
	printf("ready\n");
	fflush(stdout);
	while (!enough) {
		if (wait >= 0)
			epoll_wait(wait, &event, 1, 1000);
		else
			nanosleep(&ten_ms, NULL);
		read += ring_read(consumer, (uint64_t *)producer, producer + 4096);
	}
	read += ring_read(consumer, (uint64_t *)producer, producer + 4096);
	printf("read %llu\n", (unsigned long long)read);
	return 0;
}

/* --- relay ------------------------------------------------------------------------------------------------------- */

static uint64_t relay_read(int file)
{
	static char bytes[1 << 16];
	uint64_t read_bytes = 0;
	ssize_t count;

	while ((count = read(file, bytes, sizeof(bytes))) > 0)
		read_bytes += count;
	return read_bytes / RECORD_BYTES;
}

static int do_relay(const char *path)
{
	int file = open(path, O_RDONLY | O_NONBLOCK);
	uint64_t records = 0;

	if (file < 0)
		die(path);
	signal(SIGTERM, on_term);
	printf("ready\n");
	fflush(stdout);
	while (!enough) {
		nanosleep(&ten_ms, NULL);
		records += relay_read(file);
	}
	records += relay_read(file);
	printf("read %llu\n", (unsigned long long)records);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc > 2 && !strcmp(argv[1], "bpf"))
		return do_bpf(argv[2], argc > 3 && !strcmp(argv[3], "EPOLL"));
	if (argc > 2 && !strcmp(argv[1], "relay"))
		return do_relay(argv[2]);
	fprintf(stderr, "peer bpf SYMBOL [EPOLL] | relay FILE\n");
	return 2;
}
