# SPDX-License-Identifier: MIT
exec 3<>"$1"
printf 'used 80%%' >&3
echo watching
while read -r -t 60 -u 3 line; do echo "$line"; done
echo end
