//! What an image may cost before it is refused.

/// Limits on what comes from outside. All are checked while reading, never after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Entries in all layers of one image. Default 2,000,000: fifty times a large
    /// distribution image, and still no more than an hour of work.
    pub entries: u64,
    /// Bytes of file content in all layers of one image, holes included. Default 64 GiB.
    pub bytes: u64,
    /// Components of a path. Default 255.
    pub depth: usize,
    /// Bytes of headers in front of one entry (long names, PAX records). Default 1 MiB.
    pub metadata: u64,
    /// Bytes of one extended attribute. Default 65,536, the kernel's own limit.
    pub xattr: usize,
    /// Number of layers. Default 512; docker allows 127.
    pub layers: usize,
    /// Bytes of a manifest, an index or a configuration. Default 4 MiB, as registries have it.
    pub document: u64,
    /// Bytes of all compressed layers of one image. Default 64 GiB.
    pub download: u64,
    /// Images that are downloaded at the same time. Default 5.
    pub downloads: usize,
    /// Layers and disks that are unpacked at the same time, of all images. Default 1: unpacking
    /// keeps a core and a disk busy by itself.
    pub unpacks: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 2_000_000,
            bytes: 64 << 30,
            depth: 255,
            metadata: 1 << 20,
            xattr: 65_536,
            layers: 512,
            document: 4 << 20,
            download: 64 << 30,
            downloads: 5,
            unpacks: 1,
        }
    }
}
