//! Looks for an order of calls that explains a history.

use super::history::{History, Program};
use super::world::{Answer, World};

/// Whether some order of the calls, which keeps to the moments at which they began and ended, gives the same answers and
/// the same end when they are made one after the other.
pub(crate) fn explain(program: &Program, history: &History) -> bool {
    extend(program, history, &mut Vec::new())
}

/// Tries every call that could come after those in `order`, which have been found to answer as they did.
///
/// Orders that look alike so far are not taken for one: which peer comes first shows only later.
fn extend(program: &Program, history: &History, order: &mut Vec<usize>) -> bool {
    let mut next = vec![0; history.threads.len()];
    order.iter().for_each(|thread| next[*thread] += 1);
    let event = |thread: usize| history.threads[thread].get(next[thread]);
    let Some(first_end) = (0..next.len()).filter_map(event).map(|event| event.ended).min() else {
        return replay(program, history, order).is_some_and(|world| world.state().0 == history.state);
    };
    for thread in 0..next.len() {
        // What began after another call that is still to come had ended comes behind it.
        let Some(_) = event(thread).filter(|event| event.began < first_end) else { continue };
        order.push(thread);
        if replay(program, history, order).is_some() && extend(program, history, order) {
            return true;
        }
        order.pop();
    }
    false
}

/// A world in which the calls were made in `order`; `None` if the last one answered otherwise than it did.
fn replay(program: &Program, history: &History, order: &[usize]) -> Option<World> {
    let world = World::new(&program.setup);
    let mut next = vec![0; history.threads.len()];
    for thread in order {
        let at = next[*thread];
        next[*thread] += 1;
        if history.threads[*thread][at].answer == Answer::NO_MEMORY {
            continue; // It can be short beside a reader that lost its processor, and has changed nothing then.
        }
        if world.run(*thread, &program.threads[*thread][at]) != history.threads[*thread][at].answer {
            return None;
        }
    }
    Some(world)
}
