//! The `ouzel` binary: passes the arguments and streams of the process to the library.

use std::io;

use ouzel::commands;
use ouzel::error::Exit;

/// Requests are allocated on one thread and freed minutes later on another, the slowest case for the allocator of the
/// system.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Exit {
    commands::run(std::env::args_os(), &mut io::stdout(), &mut io::stderr())
}
