//! A file that is a kernel as far as an import looks.

/// An ELF program with one segment that names the version and all drivers that guests need.
pub(super) fn with_all_drivers(version: &str) -> Vec<u8> {
    let mut data = format!("Linux version %s\0Linux version {version} (builder@host)\0");
    for driver in hearth_kernel::modules::WANTED {
        data.push_str(driver.name);
        data.push('\0');
    }
    let mut bytes = vec![0; 64];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &2_u16.to_le_bytes());
    put(18, &62_u16.to_le_bytes());
    put(32, &64_u64.to_le_bytes());
    put(56, &1_u16.to_le_bytes());
    let mut segment = vec![0; 56];
    segment[8..16].copy_from_slice(&120_u64.to_le_bytes());
    segment[32..40].copy_from_slice(&(data.len() as u64).to_le_bytes());
    bytes.extend(segment);
    bytes.extend(data.as_bytes());
    bytes
}
