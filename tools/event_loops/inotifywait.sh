# SPDX-License-Identifier: MIT
exec 3<>"$1"
printf 'used 80%%' >&3
exec inotifywait -m "$1" 2>&1
