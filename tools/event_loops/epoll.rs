// SPDX-License-Identifier: MIT

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::io::AsRawFd;

fn main() {
    let path = std::env::args().nth(1).unwrap();
    let mut device = OpenOptions::new().read(true).write(true).open(path).unwrap();
    device.write_all(b"used 80%").unwrap();
    println!("watching");
    let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
    unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, device.as_raw_fd(), &mut event) };
    let mut line = [0u8; 256];
    loop {
        unsafe { libc::epoll_wait(epoll, &mut event, 1, -1) };
        match device.read(&mut line) {
            Ok(count) if count > 0 => print!("{}", String::from_utf8_lossy(&line[..count])),
            _ => return println!("end"),
        }
    }
}
