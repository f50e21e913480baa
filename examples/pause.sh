#!/bin/sh
# SPDX-License-Identifier: MIT
# Stop a process when 80 % of memory is used, and continue it below 60 %: pause.sh PID [HIGH LOW]
# It stops at once if HIGH is exceeded at the start.
exec memnotify run --when "${2:-used 80%}" --until "${3:-used 60%}" --now -- sh -c '
	case $MEMNOTIFY_EVENT in
	up) kill -STOP "$0" && echo "stopped $0" ;;
	down) kill -CONT "$0" && echo "continued $0" ;;
	esac' "${1:?usage: pause.sh PID [HIGH LOW]}"
