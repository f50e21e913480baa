/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "system.h"

/* linux/mount.h, which cannot stand beside the C library's sys/mount.h everywhere. */
#define OPEN_CLOEXEC 1u
#define CREATE_SUPERBLOCK 6u

int system_lock_memory(void)
{
	/* On fault: or all that is mapped and never used would be taken at once, 90 MB of stacks, libraries and heaps. */
	return mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) == 0 ? 0 : -errno;
}

int system_timer_slack(unsigned long slack_ns)
{
	return prctl(PR_SET_TIMERSLACK, slack_ns) == 0 ? 0 : -errno;
}

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

struct counter {
	int fd;
	void *ring;
};

/* A header page and the smallest ring. Mapped for reading alone it never fills up: the kernel writes over what
 * nobody reads (kernel/events/core.c:perf_mmap, ring_buffer.c:__perf_output_begin). Without one poll() never ends. */
static size_t ring_size(void)
{
	return 2 * (size_t)sysconf(_SC_PAGESIZE);
}

static int counter_open(struct counter *counter, uint64_t tracepoint, const char *filter, int cpu)
{
	struct perf_event_attr wanted = {
		.type = PERF_TYPE_TRACEPOINT,
		.size = sizeof(wanted),
		.config = tracepoint,
		.sample_period = 1, /* only what has a period may have one set later */
		.wakeup_events = 1,
		.disabled = 1,
	};

	counter->fd = syscall(SYS_perf_event_open, &wanted, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC);
	if (counter->fd < 0)
		return errno;
	if (filter[0] != '\0' && ioctl(counter->fd, PERF_EVENT_IOC_SET_FILTER, filter) != 0)
		return errno;
	counter->ring = mmap(NULL, ring_size(), PROT_READ, MAP_SHARED, counter->fd, 0);
	return counter->ring == MAP_FAILED ? errno : 0;
}

struct counter *counter_new(uint64_t tracepoint, const char *filter, int cpu, int *error)
{
	struct counter *counter = malloc(sizeof(*counter));

	if (counter == NULL) {
		*error = ENOMEM;
		return NULL;
	}
	*counter = (struct counter){ .fd = -1, .ring = MAP_FAILED };
	*error = counter_open(counter, tracepoint, filter, cpu);
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
	if (events == 0)
		return ioctl(counter->fd, PERF_EVENT_IOC_DISABLE, 0) == 0 ? 0 : -errno;
	/* Setting the period also begins it anew (kernel/events/core.c:__perf_event_period). */
	if (ioctl(counter->fd, PERF_EVENT_IOC_PERIOD, &events) != 0 ||
	    ioctl(counter->fd, PERF_EVENT_IOC_ENABLE, 0) != 0)
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
