/* SPDX-License-Identifier: MIT */
/* The whole interface between Python and libfuse3: one connection with the FUSE protocol. */

/* The longest reply to a read; a client's buffer may be larger. */
#define SHIM_REPLY_MAX 4096

/* What Python is asked, and what it answers: a number, or a negative errno. */
enum shim_kind {
	SHIM_OPEN = 1,  /* the new open file's number, fh */
	SHIM_READ,      /* the number of bytes in shim_reply's buffer; no more than the client asked for are sent */
	SHIM_WRITE,     /* the number of bytes taken */
	SHIM_POLL,      /* the revents, in the lower 32 bits */
	SHIM_RELEASE,   /* nothing: the reply was sent already */
	SHIM_GIVE_BACK, /* The reply to the last read or poll has failed: undo its acknowledgement. The handle by
			   which to notify, or 0. */
};

/* What else a request says. */
struct shim_request {
	uint64_t fh;       /* of the open file, except for an open */
	uint64_t handle;   /* of a poll: 0 if the client does not wait, else the kernel's number of the open file (kh) */
	uint32_t events;   /* of a poll */
	int64_t opener;    /* of an open: the process's pid, 0 if this pid namespace does not have it, in the upper 32
			      bits, its user in the lower */
	int64_t pid;       /* of a write: the writing thread, 0 if this pid namespace does not have it */
	const char *data;  /* of a write, until the answer */
	size_t size;       /* of a write */
};

struct shim;

/* What outlives the process, in memory that another one may take over. */
struct shim_kept {
	uint64_t in_request; /* 1 while a request was read whose answer may be outstanding */
	uint64_t mode, uid, gid; /* of the file; mode is 0 if they are not kept yet */
};

/* Return a connection that is attached to no descriptor yet, or NULL if libfuse refuses. */
struct shim *shim_new_cuse(const char *name);
struct shim *shim_new_file(const char *mount_options, unsigned int mode);

/* Return the buffer of SHIM_REPLY_MAX bytes for the reply to a read. */
char *shim_reply(struct shim *shim);

/* Return the place of the request that shim_next returned last. */
const struct shim_request *shim_asked(const struct shim *shim);

/* Mount at a path, or attach to an open descriptor, /dev/fd/N. 0, or -1 after a message of libfuse on stderr. */
int shim_attach(struct shim *shim, const char *where);

/* Serve until the connection is initialised: 0. -ECONNREFUSED if the kernel then refused the device,
   else as shim_next. */
int shim_handshake(struct shim *shim);

/* Serve in the calling thread, until shim_next ends. Takes SIGUSR1 for the process. */
void shim_begin(struct shim *shim);

/* Answer the request that it returned last, if it did not end, and wait for the next one. Return its kind; 0 when the
   other side has ended the connection, -EINTR after shim_interrupt, else -errno. */
int shim_next(struct shim *shim, int64_t result);

/* End shim_next, or its next call if none is running. Any thread. */
void shim_interrupt(struct shim *shim);

/* Wake the clients that wait by each handle, the kernel's number of an open file (kh). Any thread. */
void shim_notify(const struct shim *shim, const uint64_t *handles, size_t count);

/* Keep in `kept` what is to be kept from now on; take over what is there. */
void shim_keep(struct shim *shim, struct shim_kept *kept);

/* Return the last request: after shim_handshake, the first one of the connection. */
const char *shim_request(const struct shim *shim, size_t *size);

/* Take over a connection from another process instead of the handshake, by the first request that it got: the kernel
   drops the second reply. 0 or a negative errno. */
int shim_resume(struct shim *shim, const char *request, size_t size);

/* Return the descriptor of the connection. */
int shim_fd(const struct shim *shim);

/* Close the descriptor and free everything. If `unmount`, and this connection mounted, and the process is still the
   same user, unmount before. */
void shim_destroy(struct shim *shim, int unmount);
