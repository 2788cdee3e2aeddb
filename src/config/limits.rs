//! `[limits]`: what one request, and all of them together, may cost.

use serde::{Deserialize, Serialize};

use super::{ConfigError, bad};

/// `[limits]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Bytes of one picture, after base64.
    pub max_image_bytes: u64,
    /// Pixels of one picture, by its header.
    pub max_image_pixels: u64,
    /// Pictures of one request.
    pub max_batch_images: usize,
    /// Bytes of all bodies and decoded pixels that are held at the same time.
    pub max_inflight_bytes: u64,
    /// Bytes of one model file.
    pub max_model_bytes: u64,
    /// Milliseconds a request may take, unless its model says otherwise.
    pub timeout_ms: u64,
    /// Milliseconds of work that may wait before a model.
    pub max_queue_ms: u64,
    /// Requests without valid credentials that an address may send a minute; 0 for any number.
    pub unauthenticated_per_minute: u32,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            max_image_bytes: 10 << 20,
            max_image_pixels: 50_000_000,
            max_batch_images: 32,
            max_inflight_bytes: 256 << 20,
            max_model_bytes: 2 << 30,
            timeout_ms: 30_000,
            max_queue_ms: 2_000,
            unauthenticated_per_minute: 600,
        }
    }
}

impl LimitsConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let batch = u64::try_from(self.max_batch_images).unwrap_or(u64::MAX);
        for (key, value) in [
            ("limits.max_image_bytes", self.max_image_bytes),
            ("limits.max_image_pixels", self.max_image_pixels),
            ("limits.max_batch_images", batch),
            ("limits.max_model_bytes", self.max_model_bytes),
            ("limits.timeout_ms", self.timeout_ms),
            ("limits.max_queue_ms", self.max_queue_ms),
        ] {
            if value == 0 {
                return Err(bad(key, "must be at least 1"));
            }
        }
        if self.max_inflight_bytes < self.max_image_bytes {
            return Err(bad(
                "limits.max_inflight_bytes",
                format!(
                    "must be at least limits.max_image_bytes ({})",
                    self.max_image_bytes
                ),
            ));
        }
        Ok(())
    }
}
