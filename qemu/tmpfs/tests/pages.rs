//! Pages, shared and counted. Alone in its process: the count is of all pages that there are.

use tmpfs::{PAGE_SIZE, Page, pages};

#[test]
fn a_page_is_shared_until_the_others_are_gone() {
    let before = pages();
    let page = Page::zeroed().unwrap();
    assert!(page.is_unique() && page.address().addr().get().is_multiple_of(PAGE_SIZE));
    let other = page.clone();
    assert!(!page.is_unique() && page.is(&other));
    other.write(4090, b"012345");
    let mut bytes = [1; 8];
    page.read(4088, &mut bytes);
    assert_eq!(&bytes, b"\0\x00012345");
    let raw = other.into_raw();
    assert!(!page.is_unique());
    // SAFETY: just given away.
    drop(unsafe { Page::from_raw(raw) });
    assert!(page.is_unique());
    let copy = page.copy().unwrap();
    page.clear(0, PAGE_SIZE);
    copy.read(4088, &mut bytes);
    assert_eq!(&bytes, b"\0\x00012345");
    drop((page, copy));
    assert_eq!(pages(), before);
}
