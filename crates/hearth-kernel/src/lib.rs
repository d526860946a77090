//! Kernel import: bzImage, ELF, modules and the initramfs.
