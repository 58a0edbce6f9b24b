//! Models of the bags in which retired objects wait for their CPU: handed back, emptied and filled at the same time. The
//! collector is left out here; [`crate::lifetime`] has it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use loom::cell::UnsafeCell;
use loom::thread;
use mnt_table::limbo::{Bag, Limbo};

use crate::harness::{Layer, Model, Outcome, model};

/// All of them, cheapest first.
pub fn models() -> Vec<Model> {
    vec![put_vs_empty(), put_vs_close(), empty_vs_empty(), hand_back_vs_empty()]
}

/// The CPU that everything here belongs to.
const CPU: usize = 0;

/// Objects whose memory is in use. Plain: a count for the end of each execution.
static LIVE: AtomicU64 = AtomicU64::new(0);

/// An object to retire: its last owner writes its cell.
struct Object(UnsafeCell<()>);

impl Object {
    fn new() -> Box<Object> {
        LIVE.fetch_add(1, Relaxed);
        Box::new(Object(UnsafeCell::new(())))
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        self.0.with_mut(|_| ());
        LIVE.fetch_sub(1, Relaxed);
    }
}

/// A closed bag with one object.
fn bag(limbo: &Limbo) -> Box<Bag> {
    assert!(limbo.put_box(CPU, Object::new()).is_none(), "one object fills a bag");
    limbo.close(CPU).expect("there is one object")
}

/// The end of an execution: what is still in bags is freed, and then nothing is left.
fn end(limbo: &Limbo, outcome: Outcome) -> Outcome {
    if let Some(bag) = limbo.close(CPU) {
        limbo.hand_back(bag);
    }
    limbo.empty(CPU);
    assert!(limbo.close(CPU).is_none());
    assert_eq!(LIVE.load(Relaxed), 0, "an object was not freed");
    outcome
}

/// Two CPUs hand bags back to a third one, which empties what there is.
fn hand_back_vs_empty() -> Model {
    model(Layer::Structure, "hand_back_vs_empty")
        .expect_outcomes(["0 freed", "1 freed", "2 freed"])
        .planted(["back_relaxed", "take_back_relaxed", "push_lost"])
        .run(|| {
            let limbo = Arc::new(Limbo::new());
            let collectors = [(); 2].map(|()| {
                let (limbo, bag) = (Arc::clone(&limbo), bag(&limbo));
                thread::spawn(move || limbo.hand_back(bag))
            });
            let freed = limbo.empty(CPU).objects;
            collectors.into_iter().for_each(|collector| collector.join().unwrap());
            end(&limbo, format!("{freed} freed"))
        })
}

/// A CPU empties its bags, one of which it has just handed back itself, while another one, which is over the limit,
/// empties them too.
fn empty_vs_empty() -> Model {
    model(Layer::Structure, "empty_vs_empty")
        .expect_outcomes(["own 2, other 0", "own 1, other 1", "own 0, other 2"])
        .planted(["emptied_twice", "back_relaxed", "take_back_relaxed"])
        .run(|| {
            let limbo = Arc::new(Limbo::new());
            limbo.hand_back(bag(&limbo));
            let owner = thread::spawn({
                let (limbo, bag) = (Arc::clone(&limbo), bag(&limbo));
                move || {
                    limbo.hand_back(bag);
                    limbo.empty(CPU).objects
                }
            });
            let other = limbo.empty(CPU).objects;
            let own = owner.join().unwrap();
            end(&limbo, format!("own {own}, other {other}"))
        })
}

/// An emptied bag gives its memory to the open one, unless that has objects already.
fn put_vs_empty() -> Model {
    model(Layer::Structure, "put_vs_empty")
        .expect_outcomes(["1 freed"])
        .planted(["open_bag_overwritten"])
        .run(|| {
            let limbo = Arc::new(Limbo::new());
            limbo.hand_back(bag(&limbo));
            let owner = thread::spawn({
                let limbo = Arc::clone(&limbo);
                move || assert!(limbo.put_box(CPU, Object::new()).is_none(), "one object fills a bag")
            });
            let freed = limbo.empty(CPU).objects;
            owner.join().unwrap();
            end(&limbo, format!("{freed} freed"))
        })
}

/// A CPU fills its open bag while another one takes it.
fn put_vs_close() -> Model {
    model(Layer::Structure, "put_vs_close").expect_outcomes(["full", "taken"]).run(|| {
        let limbo = Arc::new(Limbo::new());
        let owner = thread::spawn({
            let limbo = Arc::clone(&limbo);
            move || {
                let full = [(); 2].map(|()| limbo.put_box(CPU, Object::new()));
                full.into_iter().flatten().map(|bag| limbo.hand_back(bag)).count()
            }
        });
        let taken = limbo.close(CPU).map(|bag| limbo.hand_back(bag)).is_some();
        let full = owner.join().unwrap();
        assert_ne!(taken, full == 1, "two objects are one full bag, or two that are not");
        end(&limbo, if taken { "taken" } else { "full" }.to_owned())
    })
}
