use rand::Rng;

/// Zipf's law over `0..count`: the n-th is drawn 1/n as often as the first.
pub struct Zipf {
    /// Of all draws, those up to and including each.
    sums: Vec<f64>,
}

impl Zipf {
    pub fn new(count: usize) -> Self {
        let mut sum = 0.0;
        let sums = (1..=count).map(|n| {
            sum += 1.0 / n as f64;
            sum
        });
        Self { sums: sums.collect() }
    }

    pub fn draw(&self, random: &mut impl Rng) -> usize {
        let whole = self.sums.last().copied().unwrap_or(0.0);
        let at = random.random_range(0.0..whole);
        self.sums.partition_point(|sum| *sum <= at)
    }
}
