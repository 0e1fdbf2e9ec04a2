//! How far a quantised model is from the model of floats that it was made of. The report goes with the model, in its
//! metadata.

use serde::{Deserialize, Serialize};

/// The key under which a model's metadata hold the report, as JSON.
pub const ACCURACY_KEY: &str = "moorline.accuracy";

/// A quantised model beside that of floats, over the same samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Runs of the model; each has as many rows as the model takes at once.
    pub samples: usize,
    /// The share of rows whose greatest output is the same, from 0 to 1; nothing where the first output is one number.
    pub agreement: Option<f64>,
    /// The greatest difference of an output.
    pub max_error: f32,
    /// `minmax` or `percentile`.
    pub method: String,
    pub per_channel: bool,
    /// The outputs of the model, and every tensor that is held as codes, in the order in which they are computed.
    pub layers: Vec<LayerAccuracy>,
}

/// One tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerAccuracy {
    pub tensor: String,
    /// The operator that gives it; nothing for an input.
    pub op: Option<String>,
    /// Signal to noise in decibels; nothing where there is no difference, or no signal.
    pub snr_db: Option<f64>,
}

/// Sums of squares of a signal, and of what it differs by.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Noise {
    signal: f64,
    noise: f64,
}

impl Noise {
    pub(super) fn add(&mut self, wanted: &[f32], found: &[f32]) {
        for (&wanted, &found) in wanted.iter().zip(found) {
            self.signal += f64::from(wanted).powi(2);
            self.noise += (f64::from(wanted) - f64::from(found)).powi(2);
        }
    }

    pub(super) fn snr_db(self) -> Option<f64> {
        let snr = || rounded(10.0 * (self.signal / self.noise).log10(), 100.0);
        (self.noise > 0.0 && self.signal > 0.0).then(snr)
    }
}

/// As many digits as mean something, so that what is read is what was written.
pub(super) fn rounded(value: f64, steps: f64) -> f64 {
    (value * steps).round() / steps
}

/// Rows, and how many of them have their greatest number in the same place.
pub(super) fn agreeing(wanted: &[f32], found: &[f32], classes: usize) -> (usize, usize) {
    let place = |row: &[f32]| {
        let most = row.iter().enumerate().max_by(|(_, one), (_, other)| one.total_cmp(other));
        most.map(|(place, _)| place)
    };
    let rows = wanted.chunks_exact(classes).zip(found.chunks_exact(classes));
    rows.fold((0, 0), |(all, same), (wanted, found)| {
        (all + 1, same + usize::from(place(wanted) == place(found)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_told_in_decibels() {
        let mut noise = Noise::default();
        noise.add(&[10.0, 0.0], &[9.0, 0.0]);
        assert_eq!(noise.snr_db(), Some(20.0));
        noise = Noise::default();
        noise.add(&[1.0], &[1.0]);
        assert_eq!(noise.snr_db(), None);
    }

    #[test]
    fn rows_agree_where_the_greatest_is() {
        assert_eq!(agreeing(&[1.0, 2.0, 5.0, 4.0], &[0.0, 9.0, 1.0, 2.0], 2), (2, 1));
    }
}
