//! The `ouzel` binary: hands the process's arguments and streams to the library.

use std::io;

use ouzel::commands;
use ouzel::error::Exit;

/// Requests with their histories are allocated on one thread, live for minutes and are freed on another: the slowest
/// case of the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Exit {
    commands::run(std::env::args_os(), &mut io::stdout(), &mut io::stderr())
}
