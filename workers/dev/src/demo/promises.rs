use super::narration::{mark, say};

/// Each promise with the number of times that it was put to the test, and that it did not hold.
#[derive(Default)]
pub struct Promises {
    rows: Vec<Promise>,
}

struct Promise {
    text: &'static str,
    tests: u32,
    broken: u32,
}

impl Promises {
    /// Notes one test of a promise, and whether it held.
    pub fn test(&mut self, text: &'static str, held: bool) {
        let at = self.rows.iter().position(|row| row.text == text).unwrap_or_else(|| {
            self.rows.push(Promise { text, tests: 0, broken: 0 });
            self.rows.len() - 1
        });
        self.rows[at].tests += 1;
        self.rows[at].broken += u32::from(!held);
    }

    /// Prints the table; true if every promise held.
    #[must_use]
    pub fn tell(&self) -> bool {
        say(format!("\n  {:<70} {:>6}   {:>6}", "Promises", "tested", "broken"));
        for row in &self.rows {
            let Promise { text, tests, broken } = row;
            say(format!("  {} {text:<68} {tests:>6}   {broken:>6}", mark(*broken == 0)));
        }
        !self.rows.is_empty() && self.rows.iter().all(|row| row.broken == 0)
    }
}
