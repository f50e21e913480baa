// SPDX-License-Identifier: MIT

package main

import (
	"fmt"
	"os"
	"syscall"
	"time"
)

// A read of the device never blocks, so Go's poller is never asked to wait.
func main() {
	device, err := os.OpenFile(os.Args[1], os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err == nil {
		_, err = device.WriteString("used 80%")
	}
	began := time.Now()
	line := make([]byte, 256)
	for reads := 0; err == nil && reads < 100; reads++ {
		_, err = device.Read(line)
	}
	if err != nil {
		fmt.Println(err)
	} else if time.Since(began) < 5*time.Second {
		fmt.Println("100 reads returned at once")
	}
}
