/* SPDX-License-Identifier: MIT */
/*
 * peer: the memnotify interface in plain C over libfuse3, to measure the Python daemon against.
 *
 *     peer PATH      serves a FUSE mount over the regular file PATH, until SIGTERM or SIGINT
 *
 * One thread answers requests, one samples. A client sees what it sees of memnotify with its default
 * settings: the line, the grammar of a write, level readiness, damping, back-off. Not here:
 * configuration, the pressure trigger and a character device.
 */
#define _GNU_SOURCE
#define FUSE_USE_VERSION 314

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "figures.h"

static const char *const names[NAMES] = { "total", "used", "active" };

static const int64_t UPDATE_PERIOD = 250000000, MAX_UPDATE_PERIOD = 15000000000, FLOOR = 10000000;
static const int64_t FILL_KIB_PER_SECOND = 6 << 20; /* 6 GiB/s: the fastest that memory fills up */
enum { WRITE_MAX = 4096 }; /* bytes */
static const char blanks[] = " \t\n\v\f\r";
static const char digits[] = "0123456789";

/* ---- observers ---- */

struct threshold {
	int64_t pages; /* 0: not watched */
	int64_t level; /* the one value that fires next: reached when below, left when above */
	bool above;
};

struct observer {
	struct observer *next, *prev;
	struct fuse_pollhandle *handle; /* one-shot: taken out by the event that notifies it */
	bool pending;
	bool watches;
	struct threshold at[NAMES];
};

static struct {
	pthread_mutex_t lock; /* over all of this; held for bookkeeping only */
	pthread_cond_t changed;
	struct observer list; /* a ring; this one is its head, not an observer */
	size_t observers;
	size_t watching; /* those with a threshold */
	struct sample latest;
	int64_t lowest_used; /* no armed level of `used` lies below it */
	int64_t nearest; /* pages from the latest figures to the nearest level */
	int64_t sleep; /* how long the sampler sleeps now */
	bool restart; /* thresholds have changed: back to the shortest interval */
	bool stopping;
} table = { .lock = PTHREAD_MUTEX_INITIALIZER, .list = { .next = &table.list, .prev = &table.list } };

static int64_t min64(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static int64_t max64(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

static int64_t granularity(const struct figures *figures)
{
	int64_t pages = figures->pages[TOTAL] / 128;

	return pages ? pages : 512 / page_kib;
}

/* The longest interval in which memory, filling at its fastest, cannot reach the nearest level. */
static int64_t interval_for(int64_t distance_pages)
{
	int64_t farthest = MAX_UPDATE_PERIOD / SECOND * FILL_KIB_PER_SECOND / page_kib;

	return max64(FLOOR, min64(distance_pages, farthest) * page_kib * SECOND / FILL_KIB_PER_SECOND);
}

/* Under the lock. */
static void note_level(int name, const struct threshold *threshold, const struct figures *figures)
{
	if (name == USED)
		table.lowest_used = min64(table.lowest_used, threshold->level);
	if (name != TOTAL) /* total moves by hot-plug and swapon only */
		table.nearest = min64(table.nearest, llabs(figures->pages[name] - threshold->level));
}

/* Under the lock: replace an observer's thresholds; their state is that of `figures`. */
static void set_thresholds(struct observer *observer, const int64_t pages[NAMES],
			   const struct figures *figures)
{
	bool watches = false;
	int64_t sleep;

	for (int i = 0; i < NAMES; i++) {
		struct threshold *threshold = &observer->at[i];

		threshold->pages = threshold->level = pages[i];
		threshold->above = figures->pages[i] >= pages[i];
		if (!pages[i])
			continue;
		watches = true;
		note_level(i, threshold, figures);
	}
	observer->pending = false;
	table.watching += watches;
	table.watching -= observer->watches;
	observer->watches = watches;
	/* Only if it sleeps too long: of 10,000 writes one wakes the sampler. */
	sleep = min64(UPDATE_PERIOD, interval_for(table.nearest));
	if (watches && sleep < table.sleep) {
		table.sleep = sleep;
		table.restart = true;
		pthread_cond_signal(&table.changed);
	}
}

/* Under the lock: fire a threshold if `value` reached its level, and arm the next one, `step` on. */
static bool fires(struct threshold *threshold, int64_t value, int64_t step)
{
	if (threshold->above ? value >= threshold->level : value < threshold->level)
		return false;
	threshold->above = !threshold->above;
	threshold->level = threshold->above ? min64(threshold->pages, value + 1 - step)
					    : max64(threshold->pages, value + step);
	return true;
}

/*
 * Mark the observers that have an event and take out their handles, up to `most`; return the number. The
 * next sample handles the others. -1: a newer sample is known. A threshold may have been set from it, and
 * going back in time would invent a crossing.
 */
static long take_crossed(const struct sample *sample, struct fuse_pollhandle **handles, size_t most)
{
	const struct figures *figures = &sample->figures;
	int64_t step = granularity(figures);
	size_t count = 0;

	pthread_mutex_lock(&table.lock);
	if (sample->taken < table.latest.taken) {
		pthread_mutex_unlock(&table.lock);
		return -1;
	}
	table.latest = *sample;
	table.lowest_used = table.nearest = INT64_MAX;
	for (struct observer *o = table.list.next; o != &table.list && count < most; o = o->next) {
		bool fired = false;

		for (int i = 0; i < NAMES; i++) {
			if (!o->at[i].pages)
				continue;
			fired |= fires(&o->at[i], figures->pages[i], step);
			note_level(i, &o->at[i], figures);
		}
		if (!fired || o->pending)
			continue;
		o->pending = true;
		if (o->handle)
			handles[count++] = o->handle;
		o->handle = NULL;
	}
	pthread_mutex_unlock(&table.lock);
	return (long)count;
}

/* ---- the sampler ---- */

/* Read the figures, as exactly as the thresholds need them: zoneinfo costs 43 us, meminfo 9. */
static int take_sample(struct meter *meter, struct sample *out)
{
	bool matters;

	if (read_plain(meter, out))
		return -1;
	/* The plain `used` is the upper bound: what lies above it cannot be reached, or has been left. */
	pthread_mutex_lock(&table.lock);
	matters = table.lowest_used <= out->figures.pages[USED];
	pthread_mutex_unlock(&table.lock);
	return matters ? make_exact(meter, out) : 0;
}

/* Take a sample and notify the observers whose thresholds were crossed. */
static int look(struct meter *meter, struct sample *sample)
{
	static struct fuse_pollhandle **handles;
	static size_t capacity;
	size_t observers;
	long count;

	/* Before the sample: nothing is allocated between noticing a crossing and waking the clients. */
	pthread_mutex_lock(&table.lock);
	observers = table.observers;
	pthread_mutex_unlock(&table.lock);
	if (capacity < observers) {
		struct fuse_pollhandle **larger = realloc(handles, 2 * observers * sizeof(*handles));

		if (larger) {
			handles = larger;
			capacity = 2 * observers;
		}
	}
	do {
		if (take_sample(meter, sample))
			return -1;
		count = take_crossed(sample, handles, capacity);
	} while (count < 0);
	for (long i = 0; i < count; i++) {
		fuse_lowlevel_notify_poll(handles[i]);
		fuse_pollhandle_destroy(handles[i]);
	}
	return 0;
}

/* Sleep until a sample is due; false: the daemon stops. */
static bool wait_until_due(int64_t *interval)
{
	int64_t from = now_ns();
	bool run;

	pthread_mutex_lock(&table.lock);
	while (!table.stopping) {
		struct timespec due;

		if (!table.watching) {
			table.sleep = INT64_MAX;
			pthread_cond_wait(&table.changed, &table.lock);
			from = now_ns();
			continue;
		}
		if (table.restart)
			*interval = UPDATE_PERIOD;
		table.restart = false;
		table.sleep = min64(*interval, interval_for(table.nearest));
		due = (struct timespec){ (from + table.sleep) / SECOND, (from + table.sleep) % SECOND };
		if (pthread_cond_timedwait(&table.changed, &table.lock, &due) == ETIMEDOUT)
			break;
	}
	run = !table.stopping;
	pthread_mutex_unlock(&table.lock);
	return run;
}

static void *sample_for_ever(void *meter)
{
	struct figures origin = { { 0 } };
	int64_t interval = UPDATE_PERIOD;

	while (wait_until_due(&interval)) {
		struct sample sample;
		bool moved = false;

		if (look(meter, &sample))
			continue;
		for (int i = 0; i < NAMES; i++)
			moved |= llabs(sample.figures.pages[i] - origin.pages[i]) >=
				 granularity(&sample.figures);
		if (moved)
			origin = sample.figures;
		interval = moved ? UPDATE_PERIOD : min64(2 * interval, MAX_UPDATE_PERIOD);
	}
	return NULL;
}

/* ---- requests ---- */

/* Of the request thread: the sample it answers from, and its line. */
static struct {
	struct meter meter;
	struct sample sample;
	char line[96];
	size_t length;
} current;

/* Make `current` at most UPDATE_PERIOD old, and no older than the event a client was woken by. */
static int refresh(void)
{
	struct sample latest;

	pthread_mutex_lock(&table.lock);
	latest = table.latest;
	pthread_mutex_unlock(&table.lock);
	if (!latest.exact || now_ns() - latest.taken > UPDATE_PERIOD) {
		if (read_plain(&current.meter, &latest) || make_exact(&current.meter, &latest))
			return -1;
		pthread_mutex_lock(&table.lock);
		if (latest.taken > table.latest.taken)
			table.latest = latest;
		pthread_mutex_unlock(&table.lock);
	}
	if (latest.taken == current.sample.taken)
		return 0;
	current.sample = latest;
	current.length = (size_t)snprintf(current.line, sizeof(current.line),
					  "total %lld used %lld active %lld\n",
					  (long long)latest.figures.pages[TOTAL],
					  (long long)latest.figures.pages[USED],
					  (long long)latest.figures.pages[ACTIVE]);
	return 0;
}

/* Reads a value at *at and moves *at behind it; a plain number is pages. -1: not understood. */
static int64_t parse_value(const char **at)
{
	static const char units[] = "KMGT";
	size_t length = strspn(*at, digits), fraction = 0;
	long double pages;
	const char *unit;

	if (!length)
		return -1;
	if ((*at)[length] == '.') {
		fraction = strspn(*at + length + 1, digits);
		if (!fraction)
			return -1;
		length += 1 + fraction;
	}
	pages = strtold(*at, NULL); /* 64 bits of mantissa: exact for every value allowed */
	unit = (*at)[length] ? strchr(units, (*at)[length]) : NULL;
	if (unit) {
		pages = floorl(ldexpl(pages, 10 * (int)(unit - units)) / (long double)page_kib + 0.5L);
		length++;
	} else if ((*at)[length] == '%') {
		pages = floorl(pages * (long double)current.sample.figures.pages[TOTAL] / 100 + 0.5L);
		length++;
	} else if (fraction) {
		return -1;
	}
	*at += length;
	return pages < 0x1p63L ? (int64_t)pages : -1;
}

static int parse(const char *bytes, size_t size, int64_t pages[NAMES])
{
	char text[WRITE_MAX + 1];
	const char *at = text;
	bool given[NAMES] = { false };

	if (size > WRITE_MAX)
		return EINVAL;
	while (size && !bytes[size - 1])
		size--;
	memcpy(text, bytes, size);
	text[size] = '\0';
	if (strlen(text) != size)
		return EINVAL;
	for (at += strspn(at, blanks); *at; at += strspn(at, blanks)) {
		size_t length = strcspn(at, " \t\n\v\f\r="), gap;
		int name = 0;
		int64_t value;

		while (name < NAMES && (strlen(names[name]) != length || memcmp(names[name], at, length)))
			name++;
		if (name == NAMES)
			return EINVAL;
		at += length;
		gap = strspn(at, blanks);
		if (at[gap] == '=')
			gap += 1 + strspn(at + gap + 1, blanks);
		at += gap;
		value = parse_value(&at);
		if (!gap || value < 0 || (*at && !strchr(blanks, *at)))
			return EINVAL;
		if (given[name] && pages[name] != value)
			return EINVAL;
		given[name] = true;
		pages[name] = value;
	}
	return 0;
}

static struct observer *observer_of(struct fuse_file_info *fi)
{
	return (struct observer *)(uintptr_t)fi->fh;
}

static void forget(struct observer *observer)
{
	pthread_mutex_lock(&table.lock);
	observer->prev->next = observer->next;
	observer->next->prev = observer->prev;
	table.observers--;
	table.watching -= observer->watches;
	pthread_mutex_unlock(&table.lock);
	if (observer->handle)
		fuse_pollhandle_destroy(observer->handle);
	free(observer);
}

static void do_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat attr = { .st_ino = ino, .st_mode = S_IFREG | 0666, .st_nlink = 1 };

	(void)fi;
	fuse_reply_attr(req, &attr, 3600); /* nothing of it ever changes */
}

/* truncate() and touch change nothing and succeed; mode and owner are the mount's. */
static void do_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
		       struct fuse_file_info *fi)
{
	(void)attr;
	if (to_set & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID))
		fuse_reply_err(req, EPERM);
	else
		do_getattr(req, ino, fi);
}

static void do_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct observer *observer = calloc(1, sizeof(*observer));

	(void)ino;
	if (!observer) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	pthread_mutex_lock(&table.lock);
	observer->next = &table.list;
	observer->prev = table.list.prev;
	observer->prev->next = observer;
	table.list.prev = observer;
	table.observers++;
	pthread_mutex_unlock(&table.lock);
	fi->fh = (uintptr_t)observer;
	fi->direct_io = 1; /* the file's size is 0; seekable, as clients rewind before each read */
	if (fuse_reply_open(req, fi))
		forget(observer); /* the opener was killed: no release follows */
}

static void do_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	fuse_reply_err(req, 0);
	forget(observer_of(fi));
}

static void do_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
	(void)ino;
	(void)offset;
	/* First, so that a crossing in the figures' own moment stays pending. */
	pthread_mutex_lock(&table.lock);
	observer_of(fi)->pending = false;
	pthread_mutex_unlock(&table.lock);
	if (refresh()) {
		fuse_reply_err(req, EIO);
		return;
	}
	fuse_reply_buf(req, current.line, size < current.length ? size : current.length);
}

static void do_write(fuse_req_t req, fuse_ino_t ino, const char *bytes, size_t size, off_t offset,
		     struct fuse_file_info *fi)
{
	int64_t pages[NAMES] = { 0 };
	int error;

	(void)ino;
	(void)offset;
	error = refresh() ? EIO : parse(bytes, size, pages);
	if (error) {
		fuse_reply_err(req, error);
		return;
	}
	pthread_mutex_lock(&table.lock);
	set_thresholds(observer_of(fi), pages, &current.sample.figures);
	pthread_mutex_unlock(&table.lock);
	fuse_reply_write(req, size);
}

static void do_poll(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi,
		    struct fuse_pollhandle *handle)
{
	struct observer *observer = observer_of(fi);
	struct fuse_pollhandle *old = NULL;
	unsigned revents = POLLOUT | POLLWRNORM;

	(void)ino;
	/* Store first, then check: an event in between finds the handle. */
	pthread_mutex_lock(&table.lock);
	if (handle) {
		old = observer->handle;
		observer->handle = handle;
	}
	if (observer->pending) {
		revents |= POLLIN | POLLRDNORM | POLLPRI;
		/* A client that polls for POLLPRI alone never reads: the poll acknowledges. */
		if ((fi->poll_events & POLLPRI) && !(fi->poll_events & (POLLIN | POLLRDNORM)))
			observer->pending = false;
	}
	pthread_mutex_unlock(&table.lock);
	if (old)
		fuse_pollhandle_destroy(old);
	fuse_reply_poll(req, revents);
}

static const struct fuse_lowlevel_ops operations = {
	.getattr = do_getattr,
	.setattr = do_setattr,
	.open = do_open,
	.release = do_release,
	.read = do_read,
	.write = do_write,
	.poll = do_poll,
};

/* ---- life cycle ---- */

static int start_sampler(pthread_t *thread, struct meter *meter)
{
	pthread_condattr_t monotonic;
	sigset_t all, before;
	int error;

	if (pthread_condattr_init(&monotonic) || pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC) ||
	    pthread_cond_init(&table.changed, &monotonic))
		return -1;
	/* Signals go to the request loop, which they end. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(thread, NULL, sample_for_ever, meter);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return error;
}

static void stop_sampler(pthread_t thread)
{
	pthread_mutex_lock(&table.lock);
	table.stopping = true;
	pthread_cond_signal(&table.changed);
	pthread_mutex_unlock(&table.lock);
	pthread_join(thread, NULL);
}

static int serve(struct fuse_session *session)
{
	static struct meter meter;
	pthread_t sampler;
	int result;

	if (source_open(&meter.meminfo, "/proc/meminfo") || source_open(&meter.zoneinfo, "/proc/zoneinfo") ||
	    start_sampler(&sampler, &meter))
		return -1;
	result = fuse_session_loop(session);
	stop_sampler(sampler);
	while (table.list.next != &table.list)
		forget(table.list.next); /* their handles hold the session */
	return result;
}

int main(int argc, char **argv)
{
	char *options[] = { argv[0], "-o", "allow_other,default_permissions,fsname=memnotify-peer", NULL };
	struct fuse_args args = FUSE_ARGS_INIT(3, options);
	struct fuse_session *session;
	int result = -1;

	if (argc != 2 || argv[1][0] == '-') {
		fprintf(stderr, "usage: peer PATH   serve the interface over the regular file PATH\n");
		return 2;
	}
	page_kib = sysconf(_SC_PAGESIZE) / 1024;
	/* A reporter of memory pressure must not be paged out by it. ONFAULT: lock only pages in use. */
	if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT))
		perror("peer: memory is not locked");
	if (source_open(&current.meter.meminfo, "/proc/meminfo") ||
	    source_open(&current.meter.zoneinfo, "/proc/zoneinfo") || refresh()) {
		fprintf(stderr, "peer: cannot read the memory figures\n");
		return 1;
	}
	session = fuse_session_new(&args, &operations, sizeof(operations), NULL);
	if (!session)
		return 1;
	if (!fuse_set_signal_handlers(session)) {
		if (!fuse_session_mount(session, argv[1])) {
			result = serve(session);
			fuse_session_unmount(session);
		}
		fuse_remove_signal_handlers(session);
	}
	fuse_session_destroy(session);
	fuse_opt_free_args(&args);
	return result < 0;
}
