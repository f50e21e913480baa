/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/perf_event.h>
#include <malloc.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "system.h"

/* From linux/mount.h, which conflicts with some C libraries' sys/mount.h. */
#define OPEN_CLOEXEC 1u
#define CREATE_SUPERBLOCK 6u

int system_lock_memory(void)
{
	/* On fault; otherwise the kernel would populate all mappings at once: 90 MB of stacks, libraries and heaps. */
	return mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) == 0 ? 0 : -errno;
}

int system_no_huge_pages(void)
{
	return prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0 ? 0 : -errno;
}

void system_trim_memory(void)
{
#ifdef __GLIBC__
	malloc_trim(0);
#endif
}

void system_end_without_memory(void)
{
	/* A priority as sd-daemon(3) has it: journald removes it, and other readers see three characters more. */
	static const char line[] = "<2>memnotify: no memory is left: the daemon ends, to be started again\n";
	struct pollfd stderr_fd = { .fd = STDERR_FILENO, .events = POLLOUT };

	/* Its reader may have stopped. */
	if (poll(&stderr_fd, 1, 0) == 1 && stderr_fd.revents == POLLOUT) {
		ssize_t written = write(STDERR_FILENO, line, sizeof(line) - 1);

		(void)written;
	}
	_exit(SYSTEM_OUT_OF_MEMORY);
}

int system_timer_slack(unsigned long slack_ns)
{
	return prctl(PR_SET_TIMERSLACK, slack_ns) == 0 ? 0 : -errno;
}

int system_signal_fd(const int *signals, size_t count)
{
	sigset_t set;
	int fd;

	sigemptyset(&set);
	for (size_t i = 0; i < count; i++)
		sigaddset(&set, signals[i]);
	fd = signalfd(-1, &set, SFD_CLOEXEC);
	return fd >= 0 ? fd : -errno;
}

int system_watches(void)
{
	int watches = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);

	return watches >= 0 ? watches : -errno;
}

int system_watch(int watches, const char *path)
{
	int watch = inotify_add_watch(watches, path, IN_MODIFY);

	return watch >= 0 ? watch : -errno;
}

int system_unwatch(int watches, int watch)
{
	return inotify_rm_watch(watches, watch) == 0 ? 0 : -errno;
}

int system_limit_capabilities(uint64_t kept)
{
	/* Capabilities are numbered without gaps; the read fails for the first number that the kernel does not know. */
	for (int capability = 0; prctl(PR_CAPBSET_READ, capability) >= 0; capability++) {
		if (kept >> capability & 1 || prctl(PR_CAPBSET_READ, capability) == 0)
			continue;
		if (prctl(PR_CAPBSET_DROP, capability) != 0)
			return -errno;
	}
	return prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) == 0 ? 0 : -errno;
}

int system_keep_capabilities(uint64_t kept)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct sets[2] = {
		{ .effective = (uint32_t)kept, .permitted = (uint32_t)kept },
		{ .effective = (uint32_t)(kept >> 32), .permitted = (uint32_t)(kept >> 32) },
	};

	return syscall(SYS_capset, &header, sets) == 0 ? 0 : -errno;
}

int system_no_new_privileges(void)
{
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 ? 0 : -errno;
}

int system_unshare(int flags)
{
	return unshare(flags) == 0 ? 0 : -errno;
}

int system_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data)
{
	return mount(source, target, type, flags, data) == 0 ? 0 : -errno;
}

#ifdef SYS_fsopen
int system_tracefs(void)
{
	int context = syscall(SYS_fsopen, "tracefs", OPEN_CLOEXEC);
	int root = -1;

	if (context >= 0 && syscall(SYS_fsconfig, context, CREATE_SUPERBLOCK, NULL, NULL, 0) == 0)
		root = syscall(SYS_fsmount, context, OPEN_CLOEXEC, 0);
	if (root < 0)
		root = -errno;
	if (context >= 0)
		close(context);
	return root;
}
#else
int system_tracefs(void)
{
	return -ENOSYS;
}
#endif

struct counter {
	int fd;
	void *ring;
};

/* A header page and the smallest ring; one for all counters of a CPU that are polled together. If it is mapped read-only, the kernel overwrites what was not read, so it
 * never fills (kernel/events/core.c:perf_mmap, ring_buffer.c:__perf_output_begin). Without a ring, poll() never ends. */
static size_t ring_size(void)
{
	return 2 * (size_t)sysconf(_SC_PAGESIZE);
}

static int event_open(uint64_t tracepoint, int cpu)
{
	struct perf_event_attr wanted = {
		.type = PERF_TYPE_TRACEPOINT,
		.size = sizeof(wanted),
		.config = tracepoint,
		.sample_period = 1, /* without a period, none can be set later */
		.wakeup_events = 1,
		.disabled = 1,
	};

	return syscall(SYS_perf_event_open, &wanted, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC);
}

int system_hold_tracepoint(uint64_t tracepoint, int cpu)
{
	int fd = event_open(tracepoint, cpu);

	return fd >= 0 ? fd : -errno;
}

static int counter_open(struct counter *counter, uint64_t tracepoint, const char *filter, int cpu,
			int polled_fd)
{
	counter->fd = event_open(tracepoint, cpu);
	if (counter->fd < 0)
		return errno;
	if (filter[0] != '\0' && ioctl(counter->fd, PERF_EVENT_IOC_SET_FILTER, filter) != 0)
		return errno;
	if (polled_fd >= 0)
		return ioctl(counter->fd, PERF_EVENT_IOC_SET_OUTPUT, polled_fd) == 0 ? 0 : errno;
	counter->ring = mmap(NULL, ring_size(), PROT_READ, MAP_SHARED, counter->fd, 0);
	return counter->ring == MAP_FAILED ? errno : 0;
}

struct counter *counter_new(uint64_t tracepoint, const char *filter, int cpu, int polled_fd, int *error)
{
	struct counter *counter = malloc(sizeof(*counter));

	if (counter == NULL) {
		*error = ENOMEM;
		return NULL;
	}
	*counter = (struct counter){ .fd = -1, .ring = MAP_FAILED };
	*error = counter_open(counter, tracepoint, filter, cpu, polled_fd);
	if (*error == 0)
		return counter;
	counter_free(counter);
	return NULL;
}

int counter_fd(const struct counter *counter)
{
	return counter->fd;
}

int counter_arm(struct counter *counter, uint64_t events)
{
	if (ioctl(counter->fd, PERF_EVENT_IOC_DISABLE, 0) != 0)
		return -errno;
	/* Only a disabled event takes a new period at once: a running one first ends one of the old length, after an
	 * overflow of its own (kernel/events/core.c:perf_swevent_set_period, which goes by last_period). */
	if (events != 0 && (ioctl(counter->fd, PERF_EVENT_IOC_PERIOD, &events) != 0 ||
			    ioctl(counter->fd, PERF_EVENT_IOC_ENABLE, 0) != 0))
		return -errno;
	return 0;
}

void counter_free(struct counter *counter)
{
	if (counter->ring != MAP_FAILED)
		munmap(counter->ring, ring_size());
	if (counter->fd >= 0)
		close(counter->fd);
	free(counter);
}
