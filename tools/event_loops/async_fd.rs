// SPDX-License-Identifier: MIT
// With a second argument the interest is READABLE and WRITABLE.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::io::AsRawFd;
use tokio::io::unix::AsyncFd;
use tokio::io::Interest;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
    let mut device = options.open(&arguments[1]).unwrap();
    device.write_all(b"used 80%").unwrap();
    let end = arguments.len() > 2;
    let interest = if end { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
    let fd = AsyncFd::with_interest(device, interest).unwrap();
    println!("watching");
    let mut line = [0u8; 256];
    loop {
        tokio::select! {
            guard = fd.readable() => guard.unwrap().clear_ready(),
            guard = fd.writable(), if end => {
                guard.unwrap().clear_ready();
                // The device is always writable. Only its error is news.
                let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events: 0, revents: 0 };
                if unsafe { libc::poll(&mut entry, 1, 0) } == 0 {
                    continue;
                }
            }
        }
        match (&mut fd.get_ref()).read(&mut line) {
            Ok(count) if count > 0 => print!("{}", String::from_utf8_lossy(&line[..count])),
            _ => return println!("end"),
        }
    }
}
