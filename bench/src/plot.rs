//! Line plots as SVG. In: series of points. Out: a file. No fonts are needed: the viewer's sans-serif is used.

use std::ops::Range;
use std::path::Path;

use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use crate::failure::{Result, failed};

/// Width and height, in px.
const SIZE: (u32, u32) = (960, 440);
/// Of the width, what the lines have; the rest is for their names.
const LINES: u32 = 720;
/// Colours that people with colour blindness tell apart too (Okabe and Ito).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(0, 0, 0),
    RGBColor(140, 140, 140),
];

/// A named line.
pub(crate) type Series = (String, Vec<(f64, f64)>);

/// What a plot shows.
#[derive(Debug, Clone)]
pub(crate) struct Plot {
    /// Above it.
    pub(crate) title: String,
    /// What x is, with its unit.
    pub(crate) x: String,
    /// What y is, with its unit.
    pub(crate) y: String,
    /// Whether x and y are logarithmic.
    pub(crate) log: (bool, bool),
    /// A dashed line at this y.
    pub(crate) limit: Option<f64>,
    /// The lines.
    pub(crate) series: Vec<Series>,
}

impl Plot {
    /// Draws it into the file `path`.
    pub(crate) fn draw(&self, path: &Path) -> Result<()> {
        let (x, y) = (self.range(|point| point.0, self.log.0), self.range(|p| p.1, self.log.1));
        let drawn = match self.log {
            (false, false) => self.draw_on(path, x, y),
            (false, true) => self.draw_on(path, x, y.log_scale()),
            (true, false) => self.draw_on(path, x.log_scale(), y),
            (true, true) => self.draw_on(path, x.log_scale(), y.log_scale()),
        };
        drawn.or_else(|error| failed(format!("drawing {}: {error}", path.display())))
    }

    fn range(&self, of: impl Fn(&(f64, f64)) -> f64, is_log: bool) -> Range<f64> {
        let values = self.series.iter().flat_map(|(_, points)| points).map(of);
        let values = values.filter(|value| !is_log || *value > 0.0).collect::<Vec<_>>();
        let low = values.iter().copied().reduce(f64::min).unwrap_or(1.0);
        let high = values.iter().copied().reduce(f64::max).unwrap_or(2.0);
        if is_log {
            low * 0.8..(high * 1.25).max(low)
        } else {
            low.min(0.0)..high.max(low + 1e-3) * 1.02
        }
    }

    fn draw_on<X, Y>(&self, path: &Path, x: X, y: Y) -> Result<(), Box<dyn std::error::Error>>
    where
        X: AsRangedCoord<Value = f64>,
        X::CoordDescType: ValueFormatter<f64>,
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: ValueFormatter<f64>,
    {
        let area = SVGBackend::new(path, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let (lines, names) = area.split_horizontally(LINES);
        for ((row, (name, _)), colour) in (0..).zip(&self.series).zip(COLOURS.iter().cycle()) {
            let y = 60 + 22 * row;
            names.draw(&PathElement::new([(4, y), (24, y)], colour.stroke_width(3)))?;
            names.draw(&Text::new(name.clone(), (30, y - 6), ("sans-serif", 13)))?;
        }
        let mut chart = ChartBuilder::on(&lines)
            .caption(&self.title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(72)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .x_desc(&self.x)
            .y_desc(&self.y)
            .light_line_style(WHITE)
            .y_label_formatter(&short)
            .x_label_formatter(&short)
            .draw()?;
        for ((_, points), colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            let visible =
                |(x, y): &&(f64, f64)| (!self.log.0 || *x > 0.0) && (!self.log.1 || *y > 0.0);
            let line = points.iter().filter(visible).copied();
            chart.draw_series(LineSeries::new(line, colour.stroke_width(2)))?;
        }
        if let Some(limit) = self.limit {
            let xs = self.series.iter().flat_map(|(_, points)| points).map(|point| point.0);
            let (low, high) = xs.fold((f64::MAX, f64::MIN), |(l, h), x| (l.min(x), h.max(x)));
            let dashes = (0..60).map(|nth| low + (high - low) * f64::from(nth) / 60.0);
            let half = (high - low) / 120.0;
            chart.draw_series(
                dashes.map(|x| PathElement::new([(x, limit), (x + half, limit)], BLACK)),
            )?;
        }
        area.present()?;
        Ok(())
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that the axes ask for")]
fn short(value: &f64) -> String {
    match value.abs() {
        v if v >= 1e6 => format!("{}M", value / 1e6),
        v if v >= 1e3 => format!("{}k", value / 1e3),
        v if v >= 10.0 || v.fract() == 0.0 => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_holds_its_title_and_every_series() {
        let folder = tempfile::tempdir().unwrap();
        for log in [(false, false), (false, true), (true, false), (true, true)] {
            let path = folder.path().join("plot.svg");
            let series =
                |name: &str| (name.to_owned(), vec![(1.0, 10.0), (2.0, 0.0), (64.0, 5000.0)]);
            Plot {
                title: "A title".to_owned(),
                x: "x".to_owned(),
                y: "y".to_owned(),
                log,
                limit: Some(500.0),
                series: vec![series("first"), series("second")],
            }
            .draw(&path)
            .unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            for word in ["A title", "first", "second", "</svg>"] {
                assert!(text.contains(word), "{word} with {log:?}");
            }
        }
    }
}
