/* SPDX-License-Identifier: MIT */
/* What the shim calls, one for each request. Each returns its answer, or a negative errno; the shim replies. */

/* The new open file's number. */
int64_t shim_on_open(void *session);

/* The number of bytes in shim_reply's buffer. The shim sends no more than the client asked for. */
int64_t shim_on_read(void *session, uint64_t fh);

/* The number of bytes taken. */
int64_t shim_on_write(void *session, uint64_t fh, const char *data, size_t size);

/* The revents, with SHIM_KEEP_HANDLE (bit 32) if `handle` is kept; 0 is no handle. */
int64_t shim_on_poll(void *session, uint64_t fh, uint32_t events, uint64_t handle);

/* The handle that the open file still kept, or 0. The request has been answered already. */
int64_t shim_on_release(void *session, uint64_t fh);
