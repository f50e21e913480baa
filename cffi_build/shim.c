/* SPDX-License-Identifier: MIT */
/*
 * A narrow interface between libfuse3 and Python: its structs, bit fields and two operation tables (CUSE device, FUSE
 * file) become six kinds of request on plain integers and bytes. Python gets one request at a time from shim_next, and
 * passes the answer with the call for the next one: so each gets exactly one reply.
 */
#define FUSE_USE_VERSION 314

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cuse_lowlevel.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>

#include "shim.h"

/* It ends a blocking read in the serving thread. */
#define INTERRUPT_SIGNAL SIGUSR1
/* Only this process changes the attributes, so the kernel may keep them for a day. */
#define ATTRIBUTES_VALID_S 86400.0

/* All requests but a write of more than 40 bytes, and setattr. */
#define SMALL_KEPT 120
/* A longer write is refused, and need not be kept whole. Frames are multiples of 8 bytes. */
#define WRITE_KEPT 4104
#define FRAME_KEPT (sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in) + WRITE_KEPT)
/* More requests than this wait in the kernel, in the order in which they came. */
#define WAITING_MAX 256
#define FRAMES_SIZE (WAITING_MAX * FRAME_KEPT)
/* After so many requests, look whether another waits. A look is a poll(2), 0.4 us where a request takes 7. */
#define LOOK_EACH 16
/* The kernel names no user for a release (fs/fuse/file.c:fuse_file_put). */
#define NO_USER UINT64_MAX

/* A request that was received and waits for its turn. */
struct waiting {
	uint64_t turn;
	uint64_t number; /* in the order in which they came */
	uint64_t user;
	uint32_t slot, size; /* of its frame */
	/* Its frame, unless that is larger: each of the others takes a page or two, once it is used. */
	_Alignas(uint64_t) char small[SMALL_KEPT];
};

struct shim {
	struct fuse_session *fuse;
	struct fuse_buf request;
	const struct fuse_in_header *served; /* the request in hand */
	/* What Python was asked, and libfuse's side of it, until the answer comes; `kind` is 0 in between. */
	enum shim_kind kind;
	struct shim_request asked;
	fuse_req_t unanswered;
	size_t room;                /* of a read */
	struct fuse_file_info file; /* of an open */
	struct shim_kept *kept;
	bool is_cuse;
	bool initialised;
	bool in_turns; /* several requests wait, and each user has its turn */
	bool crowded;  /* several waited the last time */
	int unlooked;  /* requests since the last look for another one that waits */
	atomic_bool interrupted;
	atomic_int thread; /* the serving thread, or 0 */
	uid_t owner; /* the user that mounted */
	struct stat attributes; /* of the file; the attributes of a device node are devtmpfs's */
	struct shim_kept own; /* `kept` until shim_keep */
	size_t waiting_count;
	uint64_t turn, number; /* of the request that was served last; of the one that came last */
	char (*frames)[FRAME_KEPT];
	struct waiting next; /* whose turn it was: its frame is in use until the answer */
	struct waiting waiting[WAITING_MAX];
	char reply[SHIM_REPLY_MAX];
};

static struct shim *shim_of(fuse_req_t request)
{
	return fuse_req_userdata(request);
}

static void on_init(void *userdata, struct fuse_conn_info *connection)
{
	(void)connection;
	((struct shim *)userdata)->initialised = true;
}

static size_t least(size_t one, size_t other)
{
	return one < other ? one : other;
}

/* Let shim_next return a request of this kind about an open file; the caller sets what else it says. */
static void ask(struct shim *shim, enum shim_kind kind, fuse_req_t request, uint64_t fh)
{
	shim->kind = kind;
	shim->unanswered = request;
	shim->asked.fh = fh;
}

static void ask_open(fuse_req_t request, const struct fuse_file_info *file)
{
	struct shim *shim = shim_of(request);
	const struct fuse_ctx *client = fuse_req_ctx(request);

	ask(shim, SHIM_OPEN, request, 0);
	shim->asked.opener = (int64_t)client->pid << 32 | (uint32_t)client->uid;
	shim->file = *file;
}

static void ask_read(fuse_req_t request, size_t size, const struct fuse_file_info *file)
{
	struct shim *shim = shim_of(request);

	ask(shim, SHIM_READ, request, file->fh);
	shim->room = least(size, SHIM_REPLY_MAX);
}

static void ask_write(fuse_req_t request, const char *data, size_t size, const struct fuse_file_info *file)
{
	struct shim *shim = shim_of(request);

	ask(shim, SHIM_WRITE, request, file->fh);
	shim->asked.data = data;
	shim->asked.size = size;
	shim->asked.pid = fuse_req_ctx(request)->pid;
}

static void ask_poll(fuse_req_t request, const struct fuse_file_info *file, struct fuse_pollhandle *handle)
{
	struct shim *shim = shim_of(request);
	const struct fuse_poll_in *poll = (const struct fuse_poll_in *)(shim->served + 1);

	ask(shim, SHIM_POLL, request, file->fh);
	shim->asked.events = file->poll_events;
	/* libfuse hides the file's kh in the handle, and another process could not notify by that. */
	shim->asked.handle = handle == NULL ? 0 : poll->kh;
	if (handle != NULL)
		fuse_pollhandle_destroy(handle);
}

static void ask_release(fuse_req_t request, const struct fuse_file_info *file)
{
	ask(shim_of(request), SHIM_RELEASE, NULL, file->fh);
	/* Reply first: on CUSE the client's close() waits for it (fs/fuse/file.c:fuse_sync_release). */
	fuse_reply_err(request, 0);
}

/* Send the answer to what was asked last. Afterwards another kind may be asked about the same file. */
static void answer(struct shim *shim, int64_t result)
{
	enum shim_kind kind = shim->kind;
	fuse_req_t request = shim->unanswered;
	bool failed = false;

	shim->kind = 0;
	shim->unanswered = NULL;
	if (request != NULL && result < 0) {
		fuse_reply_err(request, (int)-result);
		return;
	}
	switch (kind) {
	case SHIM_OPEN:
		shim->file.fh = (uint64_t)result;
		/* Otherwise the kernel cuts reads at the file's size, which is 0. */
		shim->file.direct_io = !shim->is_cuse;
		/* ENOENT: the client was killed while it waited, and the kernel will send no release. */
		if (fuse_reply_open(request, &shim->file) == -ENOENT)
			ask(shim, SHIM_RELEASE, NULL, (uint64_t)result);
		break;
	case SHIM_READ:
		failed = fuse_reply_buf(request, shim->reply, least((size_t)result, shim->room)) != 0;
		break;
	case SHIM_WRITE:
		fuse_reply_write(request, (size_t)result);
		break;
	case SHIM_POLL:
		failed = fuse_reply_poll(request, (unsigned)(result & UINT32_MAX)) != 0;
		break;
	case SHIM_GIVE_BACK:
		if (result > 0)
			shim_notify(shim, &(uint64_t){ (uint64_t)result }, 1);
		break;
	case SHIM_RELEASE:
		break;
	}
	/* The client was killed (ENOENT), or the kernel could not copy the reply and told the client EIO
	 * (fs/fuse/dev.c:fuse_dev_do_write): either way no client has seen the event. */
	if (failed)
		ask(shim, SHIM_GIVE_BACK, NULL, shim->asked.fh);
}

static void device_open(fuse_req_t request, struct fuse_file_info *file)
{
	ask_open(request, file);
}

static void device_read(fuse_req_t request, size_t size, off_t offset, struct fuse_file_info *file)
{
	(void)offset;
	ask_read(request, size, file);
}

static void device_write(fuse_req_t request, const char *data, size_t size, off_t offset,
			 struct fuse_file_info *file)
{
	(void)offset;
	ask_write(request, data, size, file);
}

static void device_poll(fuse_req_t request, struct fuse_file_info *file, struct fuse_pollhandle *handle)
{
	ask_poll(request, file, handle);
}

static void device_release(fuse_req_t request, struct fuse_file_info *file)
{
	ask_release(request, file);
}

static void file_open(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file)
{
	(void)inode;
	ask_open(request, file);
}

static void file_read(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset,
		      struct fuse_file_info *file)
{
	(void)inode;
	(void)offset;
	ask_read(request, size, file);
}

static void file_write(fuse_req_t request, fuse_ino_t inode, const char *data, size_t size, off_t offset,
		       struct fuse_file_info *file)
{
	(void)inode;
	(void)offset;
	ask_write(request, data, size, file);
}

static void file_poll(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file,
		      struct fuse_pollhandle *handle)
{
	(void)inode;
	ask_poll(request, file, handle);
}

static void file_release(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file)
{
	(void)inode;
	ask_release(request, file);
}

static void file_getattr(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file)
{
	(void)inode;
	(void)file;
	fuse_reply_attr(request, &shim_of(request)->attributes, ATTRIBUTES_VALID_S);
}

static void keep_attributes(struct shim *shim)
{
	shim->kept->mode = shim->attributes.st_mode;
	shim->kept->uid = shim->attributes.st_uid;
	shim->kept->gid = shim->attributes.st_gid;
}

/* Honour chmod and chown. Ignore size and timestamps; a device node ignores O_TRUNC as well. */
static void file_setattr(fuse_req_t request, fuse_ino_t inode, struct stat *wanted, int which,
			 struct fuse_file_info *file)
{
	struct stat *attributes = &shim_of(request)->attributes;

	if (which & FUSE_SET_ATTR_MODE)
		attributes->st_mode = S_IFREG | (wanted->st_mode & 07777);
	if (which & FUSE_SET_ATTR_UID)
		attributes->st_uid = wanted->st_uid;
	if (which & FUSE_SET_ATTR_GID)
		attributes->st_gid = wanted->st_gid;
	keep_attributes(shim_of(request));
	file_getattr(request, inode, file);
}

static const struct cuse_lowlevel_ops device_operations = {
	.init = on_init,
	.open = device_open,
	.read = device_read,
	.write = device_write,
	.poll = device_poll,
	.release = device_release,
};

static const struct fuse_lowlevel_ops file_operations = {
	.init = on_init,
	.getattr = file_getattr,
	.setattr = file_setattr,
	.open = file_open,
	.read = file_read,
	.write = file_write,
	.poll = file_poll,
	.release = file_release,
};

static struct shim *new_shim(bool is_cuse)
{
	struct shim *shim = calloc(1, sizeof(*shim));

	if (shim != NULL) {
		/* A page is used once several long writes wait at once. calloc may clear them: 0.5 MB more RSS. */
		shim->frames = mmap(NULL, FRAMES_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		for (size_t i = 0; i < WAITING_MAX; i++)
			shim->waiting[i].slot = (uint32_t)i;
		shim->is_cuse = is_cuse;
		shim->kept = &shim->own;
	}
	return shim;
}

static void free_shim(struct shim *shim)
{
	if (shim->frames != MAP_FAILED)
		munmap(shim->frames, FRAMES_SIZE);
	free(shim);
}

static struct shim *if_in_session(struct shim *shim)
{
	if (shim->fuse != NULL && shim->frames != MAP_FAILED)
		return shim;
	if (shim->fuse != NULL)
		fuse_session_destroy(shim->fuse);
	free_shim(shim);
	return NULL;
}

struct shim *shim_new_cuse(const char *name)
{
	struct shim *shim = new_shim(true);
	char device_name[256];
	const char *info[] = { device_name };
	char *argv[] = { "cuse", NULL };
	struct fuse_args args = FUSE_ARGS_INIT(1, argv);
	struct cuse_info device = { .dev_info_argc = 1, .dev_info_argv = info };

	if (shim == NULL)
		return NULL;
	snprintf(device_name, sizeof(device_name), "DEVNAME=%s", name);
	shim->fuse = cuse_lowlevel_new(&args, &device, &device_operations, shim);
	fuse_opt_free_args(&args);
	return if_in_session(shim);
}

struct shim *shim_new_file(const char *mount_options, unsigned int mode)
{
	struct shim *shim = new_shim(false);
	char *argv[] = { "fuse", "-o", (char *)mount_options, NULL };
	struct fuse_args args = FUSE_ARGS_INIT(3, argv);
	struct timespec now;

	if (shim == NULL)
		return NULL;
	clock_gettime(CLOCK_REALTIME, &now);
	shim->attributes.st_ino = FUSE_ROOT_ID;
	shim->attributes.st_mode = S_IFREG | (mode & 07777);
	shim->attributes.st_nlink = 1;
	shim->attributes.st_uid = geteuid();
	shim->attributes.st_gid = getegid();
	shim->attributes.st_atim = shim->attributes.st_mtim = shim->attributes.st_ctim = now;
	shim->fuse = fuse_session_new(&args, &file_operations, sizeof(file_operations), shim);
	fuse_opt_free_args(&args);
	return if_in_session(shim);
}

char *shim_reply(struct shim *shim)
{
	return shim->reply;
}

const struct shim_request *shim_asked(const struct shim *shim)
{
	return &shim->asked;
}

int shim_attach(struct shim *shim, const char *where)
{
	shim->owner = geteuid();
	if (fuse_session_mount(shim->fuse, where) != 0)
		return -1;
	/* A copy of the descriptor in a child would keep the device, without a reply to its requests. */
	return fcntl(fuse_session_fd(shim->fuse), F_SETFD, FD_CLOEXEC);
}

int shim_fd(const struct shim *shim)
{
	return fuse_session_fd(shim->fuse);
}

static short pending_on(const struct shim *shim)
{
	struct pollfd fd = { .fd = fuse_session_fd(shim->fuse), .events = POLLIN };

	poll(&fd, 1, 0);
	return fd.revents;
}

static void set_blocking(const struct shim *shim, bool blocking)
{
	int fd = fuse_session_fd(shim->fuse);
	int flags = fcntl(fd, F_GETFL);

	fcntl(fd, F_SETFL, blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK);
}

/* Return the size of the body that libfuse reads after the header without a check. */
static size_t least_body(const struct fuse_in_header *header)
{
	switch (header->opcode) {
	case CUSE_INIT:
		return sizeof(struct cuse_init_in);
	case FUSE_INIT:
		/* Up to 7.35 the struct ended here. */
		return offsetof(struct fuse_init_in, flags) + sizeof(uint32_t);
	case FUSE_GETATTR:
		return sizeof(struct fuse_getattr_in);
	case FUSE_SETATTR:
		return sizeof(struct fuse_setattr_in);
	case FUSE_OPEN:
		return sizeof(struct fuse_open_in);
	case FUSE_READ:
		return sizeof(struct fuse_read_in);
	case FUSE_POLL:
		return sizeof(struct fuse_poll_in);
	case FUSE_RELEASE:
		return sizeof(struct fuse_release_in);
	case FUSE_INTERRUPT:
		return sizeof(struct fuse_interrupt_in);
	case FUSE_WRITE:
		return sizeof(struct fuse_write_in);
	default:
		return 0;
	}
}

static bool well_formed(const struct fuse_buf *request)
{
	const struct fuse_in_header *header = request->mem;
	size_t body = request->size - sizeof(*header);

	if (header->len != request->size || body < least_body(header))
		return false;
	return header->opcode != FUSE_WRITE ||
	       ((const struct fuse_write_in *)(header + 1))->size == body - sizeof(struct fuse_write_in);
}

static void refuse(const struct shim *shim, const struct fuse_in_header *header)
{
	struct fuse_out_header reply = { .len = sizeof(reply), .error = -EINVAL, .unique = header->unique };
	ssize_t written = write(fuse_session_fd(shim->fuse), &reply, sizeof(reply));

	(void)written; /* if the kernel takes no reply, nothing else can be done */
}

static void process(struct shim *shim, const struct fuse_buf *request)
{
	shim->served = request->mem;
	if (well_formed(request))
		fuse_session_process_buf(shim->fuse, request);
	else
		refuse(shim, request->mem);
}

/* Return what a failed receipt means for shim_next: 1 to go on. */
static int outcome(const struct shim *shim, int received)
{
	switch (received) {
	case -EINTR:
		return 1; /* a signal such as SIGCONT, or shim->interrupted is set */
	case -EIO:
		/* On a socket: less than a header, or nothing because the other end is closed. */
		return !(pending_on(shim) & (POLLHUP | POLLERR));
	default:
		return received;
	}
}

/* Wait for a request and process it; with `look`, see whether another waits meanwhile. Return 1 if one came or a frame
   that is no request was dropped, else as shim_next. */
static int take_one(struct shim *shim, bool look)
{
	int received;

	if (shim->interrupted)
		return -EINTR;
	received = fuse_session_receive_buf(shim->fuse, &shim->request);
	if (received <= 0)
		return received == -EAGAIN ? -EINTR : outcome(shim, received);
	shim->kept->in_request = 1;
	/* Before the reply: after it, a single client on this core may have sent its next request. Turns for that
	 * cost 5 % (Linux 6.18, FUSE). */
	if (look && pending_on(shim) & POLLIN) {
		shim->in_turns = true;
		set_blocking(shim, false);
	}
	process(shim, &shim->request);
	return 1;
}

static void *frame_of(const struct shim *shim, struct waiting *waiting)
{
	return waiting->size <= SMALL_KEPT ? waiting->small : shim->frames[waiting->slot];
}

/* Let the received request wait for its turn: after those of its user, and beside the first of every other user.
   Return false if it cannot wait. */
static bool put_aside(struct shim *shim)
{
	const struct fuse_in_header *received = shim->request.mem;
	struct waiting *place = &shim->waiting[shim->waiting_count];
	struct fuse_in_header *frame;
	size_t size = least(shim->request.size, sizeof(shim->frames[0]));

	if (!well_formed(&shim->request) || (received->len > size && received->opcode != FUSE_WRITE))
		return false;
	place->user = received->opcode == FUSE_RELEASE ? NO_USER : received->uid;
	place->turn = shim->turn;
	for (const struct waiting *other = shim->waiting; other < place; other++)
		if (other->user == place->user && other->turn > place->turn)
			place->turn = other->turn;
	place->turn++;
	place->number = ++shim->number;
	place->size = (uint32_t)size;
	frame = frame_of(shim, place);
	memcpy(frame, received, size);
	if (received->len > size) {
		frame->len = (uint32_t)size;
		((struct fuse_write_in *)(frame + 1))->size = WRITE_KEPT;
	}
	shim->waiting_count++;
	return true;
}

/* Process the request whose turn it is. */
static void take_waiting(struct shim *shim)
{
	struct waiting *next = shim->waiting, *last = &shim->waiting[shim->waiting_count - 1];
	struct fuse_buf request;

	for (struct waiting *other = next + 1; other <= last; other++)
		if (other->turn < next->turn || (other->turn == next->turn && other->number < next->number))
			next = other;
	/* Its slot is not used again before its answer: only what is received then takes one. */
	shim->next = *next;
	*next = *last;
	*last = shim->next;
	shim->turn = shim->next.turn;
	shim->waiting_count--;
	request = (struct fuse_buf){ .size = shim->next.size, .mem = frame_of(shim, &shim->next) };
	process(shim, &request);
}

static bool is_interrupt(const struct fuse_buf *request)
{
	return ((const struct fuse_in_header *)request->mem)->opcode == FUSE_INTERRUPT && well_formed(request);
}

/* Receive all requests that wait, and process the one whose turn it is: a user that sends many delays its own. Return as
   take_one. */
static int take_in_turns(struct shim *shim)
{
	int received = -EINTR, result = 1;

	/* What was received is answered before an end. */
	while (!shim->interrupted && shim->waiting_count < WAITING_MAX && shim->kind == 0) {
		received = fuse_session_receive_buf(shim->fuse, &shim->request);
		if (received <= 0)
			break;
		shim->kept->in_request = 1;
		/* Requests are answered soon, so no interrupt is acted upon. It has no answer. */
		if (!is_interrupt(&shim->request) && !put_aside(shim))
			process(shim, &shim->request);
	}
	if (shim->kind == 0 && shim->waiting_count > 0)
		take_waiting(shim);
	else if (shim->kind == 0)
		result = shim->interrupted || received == -EAGAIN ? received : outcome(shim, received);
	/* More may wait if the loop ended because of a request that Python must answer first. */
	if (shim->waiting_count > 0 || received > 0)
		shim->crowded = true;
	else {
		shim->in_turns = false;
		/* In this order, since an interruption must make the next read return EAGAIN: see take_one. */
		set_blocking(shim, true);
	}
	return result == -EAGAIN ? 1 : result;
}

int shim_handshake(struct shim *shim)
{
	while (!shim->initialised) {
		int result = take_one(shim, false);

		if (result <= 0)
			return result == 0 ? -ENODEV : result;
	}
	shim->kept->in_request = 0;
	/* libfuse does not notice a refusal: the kernel aborts the connection before libfuse's write of the reply
	 * returns (fs/fuse/cuse.c:cuse_process_init_reply, fs/fuse/dev.c:fuse_dev_poll). */
	return pending_on(shim) & POLLERR ? -ECONNREFUSED : 0;
}

const char *shim_request(const struct shim *shim, size_t *size)
{
	*size = shim->request.size;
	return shim->request.mem;
}

int shim_resume(struct shim *shim, const char *request, size_t size)
{
	struct fuse_buf buf = { .size = size, .mem = (void *)request };

	if (size < sizeof(struct fuse_in_header) || !well_formed(&buf))
		return -EINVAL;
	fuse_session_process_buf(shim->fuse, &buf);
	return shim->initialised ? 0 : -EINVAL;
}

void shim_keep(struct shim *shim, struct shim_kept *kept)
{
	shim->kept = kept;
	kept->in_request = 0;
	if (kept->mode != 0) {
		shim->attributes.st_mode = (mode_t)kept->mode;
		shim->attributes.st_uid = (uid_t)kept->uid;
		shim->attributes.st_gid = (gid_t)kept->gid;
	}
	keep_attributes(shim);
}

static void do_nothing(int signal_number)
{
	(void)signal_number;
}

void shim_begin(struct shim *shim)
{
	/* Without SA_RESTART, so that the signal ends a read. */
	struct sigaction action = { .sa_handler = do_nothing };
	sigset_t signals;

	sigaction(INTERRUPT_SIGNAL, &action, NULL);
	sigemptyset(&signals);
	sigaddset(&signals, INTERRUPT_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &signals, NULL);
	shim->thread = (int)syscall(SYS_gettid);
}

/* As take_one; where several waited the last time, it looks at once. */
static int take_next(struct shim *shim)
{
	bool look = shim->crowded || ++shim->unlooked >= LOOK_EACH;

	if (look)
		shim->unlooked = 0;
	shim->crowded = false;
	return take_one(shim, look);
}

int shim_next(struct shim *shim, int64_t result)
{
	int taken = 1;

	if (shim->kind != 0)
		answer(shim, result);
	while (shim->kind == 0 && taken > 0) {
		shim->kept->in_request = shim->waiting_count > 0;
		taken = shim->in_turns ? take_in_turns(shim) : take_next(shim);
	}
	if (shim->kind != 0)
		return (int)shim->kind;
	shim->kept->in_request = 0;
	shim->thread = 0;
	/* In this order, because an interruption in between must make the next read return EAGAIN. */
	set_blocking(shim, true);
	shim->interrupted = false;
	return taken;
}

/* A signal alone is not enough: just before the read blocks, it would interrupt nothing. */
void shim_interrupt(struct shim *shim)
{
	shim->interrupted = true;
	set_blocking(shim, false);
	if (shim->thread)
		syscall(SYS_tgkill, getpid(), shim->thread, INTERRUPT_SIGNAL);
}

void shim_notify(const struct shim *shim, const uint64_t *handles, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		struct {
			struct fuse_out_header header;
			struct fuse_notify_poll_wakeup_out body;
		} frame = {
			.header = { .len = sizeof(frame), .error = FUSE_NOTIFY_POLL },
			.body = { .kh = handles[i] },
		};
		/* The kernel ignores a closed file's kh (fs/fuse/file.c:fuse_notify_poll_wakeup). */
		ssize_t written = write(shim_fd(shim), &frame, sizeof(frame));

		(void)written; /* if the connection has ended, no client waits */
	}
}

void shim_destroy(struct shim *shim, int unmount)
{
	/* Another user may not unmount; fusermount3's complaint would be the last line on stderr. */
	if (unmount && geteuid() == shim->owner)
		fuse_session_unmount(shim->fuse);
	fuse_session_destroy(shim->fuse);
	free(shim->request.mem);
	free_shim(shim);
}
