// SPDX-License-Identifier: MIT

package main

import (
	"fmt"
	"os"
	"syscall"
)

func main() {
	device, err := os.OpenFile(os.Args[1], os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err == nil {
		_, err = device.WriteString("used 80%")
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("watching")
	connection, err := device.SyscallConn()
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	line := make([]byte, 256)
	for {
		first := true
		count := 0
		err := connection.Read(func(fd uintptr) bool {
			if first { // A read never waits: wait for the event first.
				first = false
				return false
			}
			count, err = syscall.Read(int(fd), line)
			return true
		})
		if err != nil || count <= 0 {
			fmt.Println("end")
			return
		}
		os.Stdout.Write(line[:count])
	}
}
