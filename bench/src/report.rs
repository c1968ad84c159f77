//! What was measured, what was to be reached, and the verdict: as Markdown that also reads well on a terminal. Pure.

use std::fmt::Write;

use crate::statistics::{median, ratios, spread};

/// The values of one side, a value a run.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    /// Whose.
    pub(crate) label: String,
    /// Of what.
    pub(crate) unit: &'static str,
    /// One a run.
    pub(crate) values: Vec<f64>,
}

impl Series {
    /// Values with their label.
    pub(crate) fn new(label: impl Into<String>, unit: &'static str, values: Vec<f64>) -> Series {
        Series { label: label.into(), unit, values }
    }
}

/// What is to be reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Target {
    /// No less.
    AtLeast(f64),
    /// No more.
    AtMost(f64),
    /// Less.
    Below(f64),
}

impl Target {
    fn is_reached(self, value: f64) -> bool {
        match self {
            Target::AtLeast(limit) => value >= limit,
            Target::AtMost(limit) => value <= limit,
            Target::Below(limit) => value < limit,
        }
    }

    fn text(self, unit: &str) -> String {
        match self {
            Target::AtLeast(limit) => format!("≥ {limit} {unit}"),
            Target::AtMost(limit) => format!("≤ {limit} {unit}"),
            Target::Below(limit) => format!("< {limit} {unit}"),
        }
    }
}

/// Which of the runs decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deciding {
    /// The middle one: comparisons, whose runs scatter both ways.
    Median,
    /// The worst one: limits that hold always or not at all.
    Worst,
}

/// One number that matters, with everything it was made of.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    name: String,
    series: Vec<Series>,
    judged: Vec<f64>,
    unit: &'static str,
    deciding: Deciding,
    target: Option<Target>,
}

impl Figure {
    /// The first side measured by the second, run by run.
    pub(crate) fn ratio(name: impl Into<String>, ours: Series, theirs: Series, target: Option<Target>) -> Figure {
        let judged = ratios(&ours.values, &theirs.values);
        Figure { name: name.into(), series: vec![ours, theirs], judged, unit: "×", deciding: Deciding::Median, target }
    }

    /// The first side measured by the better of the others in each run, where more is better.
    pub(crate) fn ratio_to_best(name: &str, ours: Series, others: Vec<Series>, target: Target) -> Figure {
        let best: Vec<f64> = (0..ours.values.len())
            .map(|run| others.iter().map(|other| other.values[run]).fold(f64::NEG_INFINITY, f64::max))
            .collect();
        let judged = ratios(&ours.values, &best);
        let series = std::iter::once(ours).chain(others).collect();
        let (unit, deciding) = ("×", Deciding::Median);
        Figure { name: name.to_owned(), series, judged, unit, deciding, target: Some(target) }
    }

    /// A number that stands for itself; the worst run decides. What follows it is for comparison only.
    pub(crate) fn limit(name: impl Into<String>, ours: Series, beside: Vec<Series>, target: Option<Target>) -> Figure {
        let (judged, unit) = (ours.values.clone(), ours.unit);
        let series = std::iter::once(ours).chain(beside).collect();
        Figure { name: name.into(), series, judged, unit, deciding: Deciding::Worst, target }
    }

    fn value(&self) -> f64 {
        let (least, most) = spread(&self.judged);
        match (self.deciding, self.target) {
            (Deciding::Median, _) => median(&self.judged),
            (Deciding::Worst, Some(Target::AtLeast(_))) => least,
            (Deciding::Worst, _) => most,
        }
    }

    /// Whether the target was reached; `None` without a target.
    fn reached(&self) -> Option<bool> {
        self.target.map(|target| target.is_reached(self.value()))
    }

    fn row(&self, measurement: &str) -> String {
        let series: Vec<String> = self
            .series
            .iter()
            .map(|series| format!("{} {} {}", series.label, short(median(&series.values)), series.unit))
            .collect();
        let (least, most) = spread(&self.judged);
        let word = if self.deciding == Deciding::Median { "median" } else { "worst" };
        let target = self.target.map_or_else(|| "-".to_owned(), |target| target.text(self.unit));
        let verdict = match self.reached() {
            Some(true) => "reached",
            Some(false) => "**missed**",
            None => "-",
        };
        format!(
            "| {measurement} | {} | {} | {word} {} {} ({} to {}) | {target} | {verdict} |\n",
            self.name,
            series.join("; "),
            short(self.value()),
            self.unit,
            short(least),
            short(most),
        )
    }

    fn runs(&self) -> String {
        let mut text = format!("{}\n\n", self.name);
        for series in &self.series {
            let values: Vec<String> = series.values.iter().map(|value| short(*value)).collect();
            let _ = writeln!(text, "    {} ({}): {}", series.label, series.unit, values.join("  "));
        }
        let judged: Vec<String> = self.judged.iter().map(|value| short(*value)).collect();
        let _ = writeln!(text, "    judged ({}): {}\n", self.unit, judged.join("  "));
        text
    }
}

/// What a measurement found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    /// Its numbers.
    pub(crate) figures: Vec<Figure>,
    /// What must be known to read them.
    pub(crate) notes: Vec<String>,
    /// Configurations that were used: whose, and the text.
    pub(crate) settings: Vec<(String, String)>,
}

/// A measurement, or why there is none.
pub(crate) struct Entry {
    /// Its name.
    pub(crate) name: String,
    /// What it measures.
    pub(crate) about: String,
    /// What it found; or why it could not.
    pub(crate) result: Result<Findings, String>,
}

impl Entry {
    /// Whether it was made and reached all its targets.
    pub(crate) fn is_reached(&self) -> bool {
        self.result.as_ref().is_ok_and(|findings| findings.figures.iter().all(|figure| figure.reached() != Some(false)))
    }
}

/// The table of all figures.
pub(crate) fn table(entries: &[Entry]) -> String {
    let mut text =
        "| measurement | figure | medians | result | target | verdict |\n|---|---|---|---|---|---|\n".to_owned();
    for entry in entries {
        match &entry.result {
            Ok(findings) => findings.figures.iter().for_each(|figure| text.push_str(&figure.row(&entry.name))),
            Err(why) => {
                let why = why.lines().next().unwrap_or_default().replace('|', "/");
                let _ = writeln!(text, "| {} | - | - | could not be measured: {why} | - | **failed** |", entry.name);
            }
        }
    }
    text
}

/// All runs, notes and settings.
pub(crate) fn details(entries: &[Entry]) -> String {
    let mut text = String::new();
    for entry in entries {
        let _ = writeln!(text, "## {}\n\n{}\n", entry.name, entry.about);
        match &entry.result {
            Ok(findings) => {
                findings.notes.iter().for_each(|note| text.push_str(&format!("- {note}\n")));
                text.push_str(if findings.notes.is_empty() { "" } else { "\n" });
                findings.figures.iter().for_each(|figure| text.push_str(&figure.runs()));
                for (whose, settings) in &findings.settings {
                    let _ = writeln!(text, "{whose}\n\n```\n{}\n```\n", settings.trim_end());
                }
            }
            Err(why) => text.push_str(&format!("```\n{}\n```\n\n", why.trim_end())),
        }
    }
    text
}

/// Three or more significant digits, no exponent.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::{Entry, Figure, Findings, Series, Target, details, short, table};

    fn series(label: &str, values: &[f64]) -> Series {
        Series::new(label, "GB/s", values.to_vec())
    }

    #[test]
    fn the_median_of_ratios_decides_a_comparison() {
        for (theirs, reached) in [([1.0, 1.0, 1.0], true), ([1.0, 2.0, 2.0], false), ([9.0, 1.0, 1.0], true)] {
            let figure = Figure::ratio("x", series("a", &[1.25; 3]), series("b", &theirs), Some(Target::AtLeast(1.25)));
            assert_eq!(figure.reached(), Some(reached), "{theirs:?}");
        }
    }

    #[test]
    fn the_worst_run_decides_a_limit() {
        for (values, target, reached) in [
            ([1.0, 1.0, 9.0], Target::AtMost(8.0), false),
            ([1.0, 1.0, 8.0], Target::AtMost(8.0), true),
            ([1.0, 1.0, 8.0], Target::Below(8.0), false),
            ([1.0, 9.0, 9.0], Target::AtLeast(2.0), false),
        ] {
            let figure = Figure::limit("x", series("a", &values), Vec::new(), Some(target));
            assert_eq!(figure.reached(), Some(reached), "{values:?} {target:?}");
        }
    }

    #[test]
    fn the_better_peer_of_each_run_counts() {
        let others = vec![series("b", &[1.0, 4.0]), series("c", &[2.0, 1.0])];
        let figure = Figure::ratio_to_best("x", series("a", &[4.0, 4.0]), others, Target::AtLeast(1.2));
        assert_eq!(figure.judged, [2.0, 1.0]);
    }

    #[test]
    fn what_is_missed_or_failed_is_said() {
        let figure = Figure::ratio("speed", series("a", &[1.0]), series("b", &[1.0]), Some(Target::AtLeast(1.25)));
        let entry = |name: &str, result| Entry { name: name.to_owned(), about: String::new(), result };
        let missed = entry("one", Ok(Findings { figures: vec![figure], ..Findings::default() }));
        let failed = entry("two", Err("no | nginx\nsecond line".to_owned()));
        assert!(!missed.is_reached() && !failed.is_reached());
        let table = table(&[missed, failed]);
        assert!(
            table.contains(
                "| one | speed | a 1.00 GB/s; b 1.00 GB/s | median 1.00 × (1.00 to 1.00) | ≥ 1.25 × | **missed** |"
            ),
            "{table}"
        );
        assert!(table.contains("could not be measured: no / nginx | - | **failed** |"), "{table}");
    }

    #[test]
    fn every_run_is_in_the_details() {
        let figure = Figure::limit("rss", series("a", &[1.0, 123.4]), vec![series("b", &[12.34])], None);
        let findings =
            Findings { figures: vec![figure], notes: vec!["n".into()], settings: vec![("s".into(), "t".into())] };
        let text = details(&[Entry { name: "m".into(), about: "about".into(), result: Ok(findings) }]);
        for part in ["a (GB/s): 1.00  123", "b (GB/s): 12.3", "- n\n", "s\n\n```\nt\n```"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn numbers_are_short() {
        for (value, expected) in [(1234.5, "1234"), (12.34, "12.3"), (1.234, "1.23"), (0.1234, "0.123"), (0.0, "0.000")]
        {
            assert_eq!(short(value), expected);
        }
    }
}
