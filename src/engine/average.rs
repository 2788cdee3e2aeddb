//! A moving average of times: how long jobs take and how fast a queue drains.
//!
//! Called by the queue and by the choice of a lone run's width. Knows nothing of what it averages.

use std::time::Duration;

/// Samples from which on a mean is worth refusing somebody for.
const FEW: u32 = 4;

/// The plain mean of the first samples, then a moving one, so that a single odd first sample does not last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Average {
    mean: Duration,
    samples: u32,
    span: u32,
}

impl Average {
    /// An average in which a sample weighs one part in `span` once there are that many.
    pub(super) fn over(span: u32) -> Self {
        Self {
            mean: Duration::ZERO,
            samples: 0,
            span: span.max(1),
        }
    }

    /// Takes a sample in.
    pub(super) fn add(&mut self, sample: Duration) {
        self.samples = (self.samples + 1).min(self.span);
        self.mean = (self.mean * (self.samples - 1) + sample) / self.samples;
    }

    /// Takes a sample in that weighs as much as all before it.
    pub(super) fn add_rare(&mut self, sample: Duration) {
        self.mean = if self.samples == 0 {
            sample
        } else {
            (self.mean + sample) / 2
        };
        self.samples = self.samples.max(1);
    }

    /// The mean once a few samples bear it out: a first run is slower than those after it.
    pub(super) fn settled(&self) -> Option<Duration> {
        (self.samples >= FEW).then_some(self.mean)
    }

    /// The mean; `None` before the first sample.
    pub(super) fn get(&self) -> Option<Duration> {
        (self.samples > 0).then_some(self.mean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_samples_count_alike_and_the_later_ones_move_it() {
        let ms = Duration::from_millis;
        let mut average = Average::over(4);
        assert_eq!(average.get(), None);
        average.add(ms(0));
        average.add(ms(10));
        assert_eq!(average.get(), Some(ms(5)));
        average.add(ms(5));
        assert_eq!(average.settled(), None);
        average.add(ms(5));
        assert_eq!(average.settled(), Some(ms(5)));
        average.add(ms(25));
        assert_eq!(average.get(), Some(ms(10)));
        average.add_rare(ms(30));
        assert_eq!(average.get(), Some(ms(20)));
    }
}
