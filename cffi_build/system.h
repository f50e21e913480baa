/* SPDX-License-Identifier: MIT */
/* System calls that Python does not offer. */

/* Lock each page of the process when it is touched; 0 or a negative errno. */
int system_lock_memory(void);

/* Disable transparent huge pages for this process; 0 or a negative errno. */
int system_no_huge_pages(void);

/* Give freed memory back to the kernel. */
void system_trim_memory(void);

/* The exit code of a process that had no memory left. */
#define SYSTEM_OUT_OF_MEMORY 5

/* Write one line to stderr if there is space for it, and exit with SYSTEM_OUT_OF_MEMORY. Allocates nothing. */
void system_end_without_memory(void);

/* Let the kernel end the calling thread's timed sleeps up to `slack_ns` late, with other wake-ups of its CPU;
   0 or a negative errno. */
int system_timer_slack(unsigned long slack_ns);

/* Limit the capabilities that this thread and its children can gain to `kept`, bits (1 << capability); those that
   it has stay. 0 or a negative errno. */
int system_limit_capabilities(uint64_t kept);

/* Give up this thread's capabilities except those in `kept`. 0 or a negative errno. */
int system_keep_capabilities(uint64_t kept);

/* Prevent this thread from gaining privileges by executing a program (set-user-ID, file capabilities);
   0 or a negative errno. */
int system_no_new_privileges(void);

/* As unshare(2) and mount(2): 0 or a negative errno. */
int system_unshare(int flags);
int system_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data);

/* A descriptor that polls POLLIN while one of the signals, which must be blocked, is pending; or a negative errno. */
int system_signal_fd(const int *signals, size_t count);

/* A descriptor that polls POLLIN once a watched file was written to (inotify(7)); or a negative errno. */
int system_watches(void);

/* Watch a file, and return its watch, or end that; a negative errno. */
int system_watch(int watches, const char *path);
int system_unwatch(int watches, int watch);

/* A descriptor of the root of tracefs, mounted nowhere; or a negative errno. */
int system_tracefs(void);

/* A descriptor that counts nothing. While it is open, its tracepoint is in use. */
int system_hold_tracepoint(uint64_t tracepoint, int cpu);

/* Counts, on one CPU, how often the kernel passes one of its tracepoints. */
struct counter;

/* A counter that is not armed. `filter` is a condition on the tracepoint's fields, "" for none. If
   `polled_fd` is not -1, that counter of the same CPU is to be polled for both. NULL with `*error` an errno. */
struct counter *counter_new(uint64_t tracepoint, const char *filter, int cpu, int polled_fd, int *error);

/* A descriptor that polls POLLIN once the armed number is reached, and each time it is reached again. */
int counter_fd(const struct counter *counter);

/* Begin to count to `events`; 0 counts nothing. 0 or a negative errno. */
int counter_arm(struct counter *counter, uint64_t events);

void counter_free(struct counter *counter);
