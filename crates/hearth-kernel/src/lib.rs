//! Kernel import: bzImage, ELF, modules and the initramfs.
//!
//! A kernel comes in as a Debian package, a vmlinuz, a vmlinux or as what the running
//! distribution boots. What is kept is what the VMM drivers need: the bzImage (QEMU), the
//! ELF inside it (Firecracker, Cloud Hypervisor) and a base initramfs with exactly the
//! modules that a VM needs, in load order.
//!
//! - [`store`]: the folder of imported kernels; crash safe, one folder per kernel.
//! - [`initrd`]: the initramfs of one VM: base, guest agent and configuration in one file.
//! - [`bzimage`], [`elf`], [`compression`], [`deb`], [`modules`], [`cpio`]: the formats.
//!   Their input is not trusted: every length is checked and every expansion is capped.
//!
//! Everything here blocks; an async caller uses a blocking task.

#![forbid(unsafe_code)]

pub mod bzimage;
pub mod compression;
pub mod cpio;
pub mod deb;
pub mod elf;
pub mod format;
mod fsutil;
pub mod initrd;
pub mod modules;
pub mod source;
pub mod store;
#[cfg(test)]
mod testkit;

pub use format::FormatError;
pub use source::Source;
pub use store::{Import, KernelError, KernelFiles, KernelStore};
