//! stub
use super::QemuConfig;
use crate::{KernelFiles, Probe, VmmError};
use camino::Utf8Path;

#[derive(Debug, Default)]
pub(super) struct Probes;

impl Probes {
    pub(super) async fn answer(
        &self,
        _config: &QemuConfig,
        _binary: &Utf8Path,
        _kernel: Option<&KernelFiles>,
    ) -> Result<Probe, VmmError> {
        Ok(Probe {
            version: "unknown".to_owned(),
            accelerator: "tcg".to_owned(),
            detail: "not probed".to_owned(),
        })
    }
}

/// The frequency of the host's clock in kHz, from `/proc/cpuinfo`.
pub(super) fn host_khz() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("cpu MHz"))?;
    let (mhz, thousandths) = line.split_once(':')?.1.trim().split_once('.')?;
    let khz: u64 = format!("{thousandths:0<3}").get(..3)?.parse().ok()?;
    Some(mhz.parse::<u64>().ok()? * 1000 + khz)
}
