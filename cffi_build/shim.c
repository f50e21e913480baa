/* SPDX-License-Identifier: MIT */
/*
 * A narrow interface between libfuse3 and Python: its structs, bit fields and two operation tables (CUSE device, FUSE
 * file) become six callbacks on plain integers and bytes. The function that received a request replies to it, exactly
 * once, with the value that the callback returned.
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
#include "system.h"

#include "callbacks.h"

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
	int session;
	struct fuse_buf request;
	const struct fuse_in_header *served; /* the request in hand */
	struct waiting waiting[WAITING_MAX];
	size_t waiting_count;
	uint64_t turn, number; /* of the request that was served last; of the one that came last */
	char (*frames)[FRAME_KEPT];
	bool is_cuse;
	bool initialised;
	uid_t owner; /* the user that mounted */
	atomic_bool interrupted;
	atomic_int thread; /* the serving thread, or 0 */
	struct stat attributes; /* of the file; the attributes of a device node are devtmpfs's */
	struct shim_kept *kept;
	struct shim_kept own; /* `kept` until shim_keep */
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

/* Never go on after a callback that could not run: the request may have been half done. */
static int64_t checked(int64_t answer)
{
	if (answer == SHIM_FAILED)
		system_end_without_memory();
	return answer;
}

static void answer_open(fuse_req_t request, struct fuse_file_info *file)
{
	struct shim *shim = shim_of(request);
	const struct fuse_ctx *client = fuse_req_ctx(request);
	int64_t fh =
		checked(shim_on_open(shim->session, (int64_t)client->pid << 32 | (uint32_t)client->uid));

	if (fh < 0) {
		fuse_reply_err(request, (int)-fh);
		return;
	}
	file->fh = (uint64_t)fh;
	/* Otherwise the kernel cuts reads at the file's size, which is 0. */
	file->direct_io = !shim->is_cuse;
	/* ENOENT: the client was killed while it waited, and the kernel will send no release. */
	if (fuse_reply_open(request, file) == -ENOENT)
		checked(shim_on_release(shim->session, file->fh));
}

static size_t least(size_t one, size_t other)
{
	return one < other ? one : other;
}

/* The client was killed (ENOENT), or the kernel could not copy the reply and told the client EIO
 * (fs/fuse/dev.c:fuse_dev_do_write): either way no client has seen the event. */
static void reply_failed(struct shim *shim, uint64_t fh)
{
	int64_t handle = checked(shim_on_give_back(shim->session, fh));

	if (handle > 0) {
		uint64_t one = (uint64_t)handle;

		shim_notify(shim, &one, 1);
	}
}

static void answer_read(fuse_req_t request, size_t size, struct fuse_file_info *file)
{
	struct shim *shim = shim_of(request);
	int64_t count = checked(shim_on_read(shim->session, file->fh));

	if (count < 0)
		fuse_reply_err(request, (int)-count);
	else if (fuse_reply_buf(request, shim->reply, least((size_t)count, least(size, SHIM_REPLY_MAX))) != 0)
		reply_failed(shim, file->fh);
}

static void answer_write(fuse_req_t request, const char *data, size_t size, struct fuse_file_info *file)
{
	pid_t pid = fuse_req_ctx(request)->pid;
	int64_t count =
		checked(shim_on_write(shim_of(request)->session, file->fh, data, size, pid));

	if (count < 0)
		fuse_reply_err(request, (int)-count);
	else
		fuse_reply_write(request, (size_t)count);
}

static void answer_poll(fuse_req_t request, struct fuse_file_info *file, struct fuse_pollhandle *handle)
{
	struct shim *shim = shim_of(request);
	const struct fuse_poll_in *poll = (const struct fuse_poll_in *)(shim->served + 1);
	/* libfuse hides the file's kh in the handle, and another process could not notify by that. */
	uint64_t kh = handle == NULL ? 0 : poll->kh;
	int64_t answer = checked(shim_on_poll(shim->session, file->fh, file->poll_events, kh));

	if (handle != NULL)
		fuse_pollhandle_destroy(handle);
	if (answer < 0)
		fuse_reply_err(request, (int)-answer);
	else if (fuse_reply_poll(request, (unsigned)(answer & UINT32_MAX)) != 0)
		reply_failed(shim, file->fh);
}

static void answer_release(fuse_req_t request, struct fuse_file_info *file)
{
	struct shim *shim = shim_of(request);
	uint64_t fh = file->fh;

	/* Reply first: on CUSE the client's close() waits for it (fs/fuse/file.c:fuse_sync_release). */
	fuse_reply_err(request, 0);
	checked(shim_on_release(shim->session, fh));
}

static void device_open(fuse_req_t request, struct fuse_file_info *file)
{
	answer_open(request, file);
}

static void device_read(fuse_req_t request, size_t size, off_t offset, struct fuse_file_info *file)
{
	(void)offset;
	answer_read(request, size, file);
}

static void device_write(fuse_req_t request, const char *data, size_t size, off_t offset,
			 struct fuse_file_info *file)
{
	(void)offset;
	answer_write(request, data, size, file);
}

static void device_poll(fuse_req_t request, struct fuse_file_info *file, struct fuse_pollhandle *handle)
{
	answer_poll(request, file, handle);
}

static void device_release(fuse_req_t request, struct fuse_file_info *file)
{
	answer_release(request, file);
}

static void file_open(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file)
{
	(void)inode;
	answer_open(request, file);
}

static void file_read(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset,
		      struct fuse_file_info *file)
{
	(void)inode;
	(void)offset;
	answer_read(request, size, file);
}

static void file_write(fuse_req_t request, fuse_ino_t inode, const char *data, size_t size, off_t offset,
		       struct fuse_file_info *file)
{
	(void)inode;
	(void)offset;
	answer_write(request, data, size, file);
}

static void file_poll(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file,
		      struct fuse_pollhandle *handle)
{
	(void)inode;
	answer_poll(request, file, handle);
}

static void file_release(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file)
{
	(void)inode;
	answer_release(request, file);
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

static struct shim *new_shim(int session, bool is_cuse)
{
	struct shim *shim = calloc(1, sizeof(*shim));

	if (shim != NULL) {
		/* A page is used once several long writes wait at once. calloc may clear them: 0.5 MB more RSS. */
		shim->frames = mmap(NULL, FRAMES_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		for (size_t i = 0; i < WAITING_MAX; i++)
			shim->waiting[i].slot = (uint32_t)i;
		shim->session = session;
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

struct shim *shim_new_cuse(const char *name, int session)
{
	struct shim *shim = new_shim(session, true);
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

struct shim *shim_new_file(const char *mount_options, unsigned int mode, int session)
{
	struct shim *shim = new_shim(session, false);
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

/* Return what a failed receipt means for shim_serve: 1 to go on. */
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

/* Wait for a request and serve it. Set `*crowded`, unless it is NULL, if another waits meanwhile. Return 1 if one was
   served or a frame that is no request was dropped, else as shim_serve. */
static int serve_one(struct shim *shim, bool *crowded)
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
	if (crowded != NULL)
		*crowded = (pending_on(shim) & POLLIN) != 0;
	process(shim, &shim->request);
	shim->kept->in_request = 0;
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

/* Serve the request whose turn it is. */
static void serve_waiting(struct shim *shim)
{
	struct waiting *next = shim->waiting, *last = &shim->waiting[shim->waiting_count - 1], served;
	struct fuse_buf request;

	for (struct waiting *other = next + 1; other <= last; other++)
		if (other->turn < next->turn || (other->turn == next->turn && other->number < next->number))
			next = other;
	served = *next;
	*next = *last;
	*last = served;
	request = (struct fuse_buf){ .size = served.size, .mem = frame_of(shim, &served) };
	process(shim, &request);
	shim->turn = served.turn;
	shim->waiting_count--;
}

static bool is_interrupt(const struct fuse_buf *request)
{
	return ((const struct fuse_in_header *)request->mem)->opcode == FUSE_INTERRUPT && well_formed(request);
}

/* Receive all requests that wait, and serve one. Return 1, -EAGAIN if none waits, else as shim_serve. */
static int serve_turn(struct shim *shim)
{
	int received = -EINTR;

	/* What was received is answered before an end. */
	while (!shim->interrupted && shim->waiting_count < WAITING_MAX) {
		received = fuse_session_receive_buf(shim->fuse, &shim->request);
		if (received <= 0)
			break;
		shim->kept->in_request = 1;
		/* Requests are answered soon, so no interrupt is acted upon. It has no answer. */
		if (!is_interrupt(&shim->request) && !put_aside(shim))
			process(shim, &shim->request);
	}
	if (shim->waiting_count > 0)
		serve_waiting(shim);
	else if (received <= 0)
		return shim->interrupted || received == -EAGAIN ? received : outcome(shim, received);
	shim->kept->in_request = shim->waiting_count > 0;
	return 1;
}

/* Serve while several requests wait, in turns by user: a user that sends many delays its own. Set `*crowded` if several
   waited; return as serve_turn. */
static int serve_in_turns(struct shim *shim, bool *crowded)
{
	int result;

	*crowded = false;
	set_blocking(shim, false);
	do {
		result = serve_turn(shim);
		*crowded |= shim->waiting_count > 0;
	} while (result > 0 && shim->waiting_count > 0);
	shim->kept->in_request = 0;
	/* In this order, since an interruption must make the next read return EAGAIN: see serve_one. */
	set_blocking(shim, true);
	return result == -EAGAIN ? 1 : result;
}

int shim_handshake(struct shim *shim)
{
	while (!shim->initialised) {
		int result = serve_one(shim, NULL);

		if (result <= 0)
			return result == 0 ? -ENODEV : result;
	}
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

int shim_serve(struct shim *shim)
{
	/* Without SA_RESTART, so that the signal ends a read. */
	struct sigaction action = { .sa_handler = do_nothing };
	sigset_t signals;
	bool crowded = false, look;
	int result, served = 0;

	sigaction(INTERRUPT_SIGNAL, &action, NULL);
	sigemptyset(&signals);
	sigaddset(&signals, INTERRUPT_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &signals, NULL);
	shim->thread = (int)syscall(SYS_gettid);
	do {
		/* Where several waited the last time, look at once. */
		look = crowded || ++served >= LOOK_EACH;
		crowded = false;
		result = serve_one(shim, look ? &crowded : NULL);
		if (look)
			served = 0;
		if (result > 0 && crowded)
			result = serve_in_turns(shim, &crowded);
	} while (result > 0);
	shim->thread = 0;
	/* In this order, because an interruption in between must make the next read return EAGAIN. */
	set_blocking(shim, true);
	shim->interrupted = false;
	return result;
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
