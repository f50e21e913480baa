/* SPDX-License-Identifier: MIT */
/* The whole interface between Python and libfuse3: one connection with the FUSE protocol. */

/* The longest reply to a read; a client's buffer may be larger. */
#define SHIM_REPLY_MAX 4096

struct shim;

/* Return a connection that is attached to no descriptor yet, or NULL if libfuse refuses. Every callback gets
   `session`. */
struct shim *shim_new_cuse(const char *name, void *session);
struct shim *shim_new_file(const char *mount_options, unsigned int mode, void *session);

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

/* Wake the clients that wait by each handle and free it, or only free it. Any thread. */
void shim_notify(const uint64_t *handles, size_t count);
void shim_free_handles(const uint64_t *handles, size_t count);

/* Close the descriptor and free everything. If `unmount`, and this connection mounted, and the process is still the
   same user, unmount before. All handles must be freed before. */
void shim_destroy(struct shim *shim, int unmount);
