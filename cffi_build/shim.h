/* SPDX-License-Identifier: MIT */
/* The whole interface between Python and libfuse3: one connection that speaks the FUSE protocol. */

/* What is read at once is cut here: a client's buffer may be larger, what a device says is not. */
#define SHIM_REPLY_MAX 4096

struct shim;

/* A connection not yet attached to a descriptor; NULL if libfuse refuses. `session` is handed to every callback. */
struct shim *shim_new_cuse(const char *name, void *session);
struct shim *shim_new_file(const char *mount_options, unsigned int mode, void *session);

/* Where shim_on_read leaves what it has read, SHIM_REPLY_MAX bytes. */
char *shim_reply(struct shim *shim);

/* Mount at a path, or take over an open descriptor as /dev/fd/N. 0, or -1 if libfuse has said why on stderr. */
int shim_attach(struct shim *shim, const char *where);

/* Serve until the connection is initialised: 0. -ECONNREFUSED if the kernel then refused the device,
   else as shim_serve. */
int shim_handshake(struct shim *shim);

/* Serve. 0 when the other side has ended the connection, -EINTR when signals were caught, else -errno. */
int shim_serve(struct shim *shim);

/* Let `signal_number` end shim_serve, whenever it comes; one connection in a process may ask for it. */
int shim_catch(struct shim *shim, int signal_number);

/* The signals caught since the last call, as bits (1 << signal number). */
uint64_t shim_caught(struct shim *shim);

/* Wake the clients that wait by each handle and free it, or only free it. Any thread. */
void shim_notify(const uint64_t *handles, size_t count);
void shim_free_handles(const uint64_t *handles, size_t count);

/* Unmount, if this connection mounted and the process is still the same user, close the descriptor and free everything. All handles must be freed before. */
void shim_destroy(struct shim *shim);
