/* SPDX-License-Identifier: MIT */
/* The shim calls one of these for each request. Each returns its answer or a negative errno; the shim replies.
   SHIM_FAILED says that there was no memory even to refuse: the shim ends the process. */

/* Return the new open file's number. `opener` is the process that opens it: its pid, 0 if this pid namespace does not
   have it, in the upper 32 bits, its user in the lower. */
int64_t shim_on_open(int session, int64_t opener);

/* Return the number of bytes in shim_reply's buffer. The shim sends no more than the client asked for. */
int64_t shim_on_read(int session, uint64_t fh);

/* Return the number of bytes taken. `pid` is the writing thread's, 0 if this pid namespace does not have it. */
int64_t shim_on_write(int session, uint64_t fh, const char *data, size_t size, int64_t pid);

/* Return the revents in the lower 32 bits. If the client does not wait, `handle` is 0;
   otherwise it is the kernel's number of the open file (kh). */
int64_t shim_on_poll(int session, uint64_t fh, uint32_t events, uint64_t handle);

/* The reply to the last read or poll has failed: undo its acknowledgement. Return the handle by which to notify, or
   0. */
int64_t shim_on_give_back(int session, uint64_t fh);

/* The reply has been sent already. */
int64_t shim_on_release(int session, uint64_t fh);
