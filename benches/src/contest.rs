//! What is compared: cells that are measured in turns, so that a machine that is busy for a while is busy for all of
//! them.

use std::time::{Duration, Instant};

use crate::spread::Spread;

/// Makes so many operations and returns how long they took.
pub type Measure = Box<dyn FnMut(u64) -> Duration>;

/// One thing that is measured.
pub struct Cell {
    /// What it is, as benches and tables name it.
    pub name: String,
    /// The index of the cell that it is compared with.
    pub base: usize,
    measure: Measure,
    /// Operations that take about one slice.
    operations: u64,
    nanoseconds: Vec<f64>,
}

impl Cell {
    /// A cell that `measure` measures and that is compared with the one at `base`.
    pub fn new(name: impl Into<String>, base: usize, measure: impl FnMut(u64) -> Duration + 'static) -> Self {
        let (name, measure) = (name.into(), Box::new(measure));
        Cell { name, base, measure, operations: 0, nanoseconds: Vec::new() }
    }

    /// Makes `operations` operations.
    pub fn measure(&mut self, operations: u64) -> Duration {
        (self.measure)(operations)
    }

    fn calibrate(&mut self, slice: Duration) {
        let mut operations = 16;
        let began = Instant::now();
        loop {
            let time = self.measure(operations);
            // A cell whose setup is long is not tried for ever.
            if time * 2 >= slice || began.elapsed() > slice * 20 {
                let per_slice = slice.as_secs_f64() / time.as_secs_f64().max(1e-9);
                self.operations = ((operations as f64 * per_slice) as u64).max(1);
                return;
            }
            operations *= 2;
        }
    }

    /// Nanoseconds per operation.
    pub fn time(&self) -> Spread {
        Spread::of(self.nanoseconds.iter().copied())
    }

    /// How many times as long as `other` it took, round by round.
    pub fn ratio(&self, other: &Cell) -> Spread {
        Spread::of(self.nanoseconds.iter().zip(&other.nanoseconds).map(|(own, other)| own / other))
    }
}

/// Cells that are compared with each other.
pub struct Contest {
    /// What is done, as benches and tables name it.
    pub name: String,
    /// The contestants.
    pub cells: Vec<Cell>,
}

impl Contest {
    /// Measures all cells in turns, each for a `slice` in each of `rounds`.
    pub fn run(&mut self, rounds: usize, slice: Duration) {
        for cell in &mut self.cells {
            cell.nanoseconds.clear();
            cell.calibrate(slice);
        }
        for _ in 0..rounds {
            for cell in &mut self.cells {
                let time = cell.measure(cell.operations);
                cell.nanoseconds.push(time.as_nanos() as f64 / cell.operations as f64);
            }
        }
    }
}
