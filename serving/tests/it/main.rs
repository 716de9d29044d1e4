//! The scoring port end to end: a real socket, real worker threads, a fake model.

mod contract;
mod inference;
mod overload;
#[cfg(test)]
mod server;
mod shutdown;
mod swap;
