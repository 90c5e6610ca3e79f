//! A distribution known by a few of its quantiles, as the Azure traces give durations and memory.

use rand::RngExt;

use crate::Random;

/// A distribution: values at given probabilities, straight lines in between.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantiles {
    /// `(probability, value)`: at least one; probabilities rise strictly within `0..=1`, values never fall and are finite.
    points: Vec<(f64, f64)>,
}

impl Quantiles {
    /// From `(probability, value)` pairs in any order; `None` if there is none, or one is not finite, negative or beyond
    /// probability 1, or two share a probability. A value below the one before is lifted to it: rounded files have those.
    pub fn new(mut points: Vec<(f64, f64)>) -> Option<Self> {
        let valid = |(p, v): &(f64, f64)| (0.0..=1.0).contains(p) && v.is_finite() && *v >= 0.0;
        if points.is_empty() || !points.iter().all(valid) {
            return None;
        }
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        if points.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            return None;
        }
        let mut highest = 0.0_f64;
        for (_, value) in &mut points {
            highest = highest.max(*value);
            *value = highest;
        }
        Some(Self { points })
    }

    /// The value below which `probability` of all lies; the outermost known value beyond the known range.
    pub fn at(&self, probability: f64) -> f64 {
        let after = self.points.partition_point(|(p, _)| *p < probability);
        match (after.checked_sub(1).map(|i| self.points[i]), self.points.get(after)) {
            (None, Some((_, value))) => *value,
            (Some((_, value)), None) => value,
            (Some((p0, v0)), Some((p1, v1))) => v0 + (v1 - v0) * (probability - p0) / (p1 - p0),
            (None, None) => 0.0, // a distribution has at least one point
        }
    }

    /// The middle value.
    pub fn median(&self) -> f64 {
        self.at(0.5)
    }

    /// The mean of the lines between the points, the outermost values reaching to 0 and 1.
    pub fn mean(&self) -> f64 {
        let ends = [(0.0, self.at(0.0)), (1.0, self.at(1.0))];
        let points =
            std::iter::once(&ends[0]).chain(&self.points).chain(&ends[1..]).collect::<Vec<_>>();
        points.windows(2).map(|pair| (pair[1].0 - pair[0].0) * (pair[0].1 + pair[1].1) / 2.0).sum()
    }

    /// One value drawn from the distribution.
    pub fn draw(&self, random: &mut Random) -> f64 {
        self.at(random.random())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lie_on_the_lines_between_the_points() {
        let q = Quantiles::new(vec![(1.0, 300.0), (0.0, 100.0), (0.5, 200.0)]).unwrap();
        for (p, value) in [(-1.0, 100.0), (0.0, 100.0), (0.25, 150.0), (0.5, 200.0), (2.0, 300.0)] {
            assert!((q.at(p) - value).abs() < 1e-9, "at {p}: {}", q.at(p));
        }
        assert!((q.mean() - 200.0).abs() < 1e-9);
    }

    #[test]
    fn a_single_point_is_a_constant() {
        let q = Quantiles::new(vec![(0.5, 7.0)]).unwrap();
        assert!((q.draw(&mut crate::random(1)) - 7.0).abs() < 1e-9);
        assert!((q.mean() - 7.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_no_distribution_is_refused() {
        for points in [
            vec![],
            vec![(1.5, 1.0)],
            vec![(0.5, f64::NAN)],
            vec![(0.5, -1.0)],
            vec![(0.5, 1.0); 2],
        ] {
            assert!(Quantiles::new(points.clone()).is_none(), "{points:?}");
        }
    }

    #[test]
    fn rounded_values_that_fall_are_lifted() {
        let q = Quantiles::new(vec![(0.0, 10.0), (0.5, 9.0), (1.0, 12.0)]).unwrap();
        assert!((q.median() - 10.0).abs() < 1e-9);
    }
}
