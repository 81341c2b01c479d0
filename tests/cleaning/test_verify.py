"""``verify`` names whatever differs from the manifest."""

import pytest

from puretransforms.cleaning.clean import clean
from puretransforms.cleaning.verify import verify
from puretransforms.errors import ManifestMismatchError, SourceError


@pytest.fixture
def cleaned(source, tmp_path, purifier):
    (source / "dog/bad.png").write_bytes(b"bad")
    with pytest.warns(UserWarning, match="damaged"):
        return clean(source, tmp_path / "out", purifier, workers=1, unit_size=7, progress=False)


def test_a_fresh_output_is_whole(cleaned):
    result = cleaned.verify()
    assert result == verify(cleaned.out)
    assert (result.files, result.rows) == (26, 26)
    size = sum(path.stat().st_size for path in cleaned.out.rglob("*/*.*"))
    assert result.bytes == size + 3


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda out: (out / "cat/notes.txt").write_text("changed text"), "'out/cat/notes.txt' has changed"),
        (lambda out: (out / "cat/00.png").unlink(), r"'out/cat/00.png' cannot be read \(No such file"),
        (lambda out: (out / "cat/extra.png").write_bytes(b""), "'out/cat/extra.png' is not in the manifest"),
        (lambda out: (out / "eel/link").symlink_to("deep"), "'out/eel/link' is not in the manifest"),
        (lambda out: (out.parent / "out.quarantine/dog/bad.png").write_bytes(b"BAD"), "bad.png' has changed"),
        (lambda out: (out.parent / "out.quarantine/new").write_bytes(b""), "new' is not in the manifest"),
        (lambda out: (out / "manifest.jsonl").unlink(), "finished output.*run clean with the same arguments again"),
    ],
)
def test_every_difference_is_named(cleaned, harm, message):
    harm(cleaned.out)
    with pytest.raises(ManifestMismatchError, match=message):
        verify(cleaned.out)


def test_a_folder_that_is_no_output_is_told_from_none_at_all(source, tmp_path):
    for folder, what in ((tmp_path / "nowhere", "no such folder"), (source, r"a folder without run\.json")):
        with pytest.raises(SourceError, match=rf"the output folder of puretransforms clean, got '{folder}': {what}"):
            verify(folder)


def test_a_manifest_that_lost_rows_is_noticed(cleaned):
    lines = cleaned.manifest.read_bytes().splitlines(keepends=True)
    cleaned.manifest.write_bytes(b"".join(lines[1:]))
    with pytest.raises(ManifestMismatchError, match="25 rows for 26 source files"):
        verify(cleaned.out)


def test_of_many_differences_the_first_are_named_and_all_counted(cleaned):
    for number in range(15):
        (cleaned.out / f"{number}.extra").write_bytes(b"")
    with pytest.raises(ManifestMismatchError, match="and 5 more"):
        verify(cleaned.out)
