/* SPDX-License-Identifier: MIT */
/* The whole interface between Python and libfuse3: one connection with the FUSE protocol. */

/* The longest reply to a read; a client's buffer may be larger. */
#define SHIM_REPLY_MAX 4096

/* What a callback returns that could not run; no answer and no errno. */
#define SHIM_FAILED -1000000

struct shim;

/* What outlives the process, in memory that another one may take over. */
struct shim_kept {
	uint64_t in_request; /* 1 while a request was read and may not be answered */
	uint64_t mode, uid, gid; /* of the file; mode is 0 if they are not kept yet */
};

/* Return a connection that is attached to no descriptor yet, or NULL if libfuse refuses. Every callback gets
   `session`. */
struct shim *shim_new_cuse(const char *name, int session);
struct shim *shim_new_file(const char *mount_options, unsigned int mode, int session);

/* Return the buffer of SHIM_REPLY_MAX bytes that shim_on_read fills. */
char *shim_reply(struct shim *shim);

/* Mount at a path, or attach to an open descriptor, /dev/fd/N. 0, or -1 after a message of libfuse on stderr. */
int shim_attach(struct shim *shim, const char *where);

/* Serve until the connection is initialised: 0. -ECONNREFUSED if the kernel then refused the device,
   else as shim_serve. */
int shim_handshake(struct shim *shim);

/* Serve in the calling thread. 0 when the other side has ended the connection, -EINTR after shim_interrupt, else
   -errno. Takes SIGUSR1 for the process. */
int shim_serve(struct shim *shim);

/* End shim_serve, or its next call if none is running. Any thread. */
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
