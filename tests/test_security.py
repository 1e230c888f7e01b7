"""Every point of SECURITY.md has tests, and they exist."""

import ast
import inspect
import pathlib
import re

import jax
import pytest

ROOT = pathlib.Path(__file__).parents[1]

# How a point of SECURITY.md begins -> the tests of what it says, as FILE::TEST without `test_`.
TESTS = {
    "A configuration file": "cli::a_configuration_file_runs",
    "An exported network": "export::a_fresh_interpreter_gets_every_pixel_of_five_images",
    "The network between": "security::jax_neither_encrypts_nor_authenticates",
    "Your own data folder": "listing::links_are_followed_once_and_real_folders_keep_their_names",
    "Checksums of checkpoints": "hostile_records::seals hostile::pseudo_labels_of_another",
    "Orbax reads": "hostile_records::checkpoints_without_a_seal "
    "pictures::pixels_are_those_that_pillow_says builders::16_bit_labels_are_stored_as_8_bits "
    "video::a_video_keeps_its_frames_times_and_size",
    "Nothing that the pickle": "weights_unpickle::no_name_is_imported_or_called "
    "weights_unpickle::what_only_attacks_name_is_refused_and_not_run",
    "`.npz` files": "weights_files::npz_with_objects_run_nothing",
    "A weight file": "weights_torch_file::attacks_are_refused_within_seconds_and_megabytes "
    "weights_files::npz_that_unpack_to_much_more_are_refused",
    "A `.safetensors` header": "weights_files::refused_safetensors",
    "A published network": "publish::a_damaged_folder_is_refused",
    "ImageNet weights": "weights_download::https_trusts_known_certificates_only "
    "weights_download::https_is_not_left_by_a_redirect weights_imagenet::a_mirror",
    "A download": "weights_download::a_wrong_file_is_discarded",
    "A prepared data set": "builders::features_that_would_import_code_are_refused_first",
    "Workers": "parts::workers_do_not_run_what_lies_in_the_current_folder",
    "The parts": "parts::a_part_holds_no_code parts::claims_about_sizes_cost_no_memory",
    "Keys of prepared data": "builders::a_key_that_leaves_its_folder_is_refused "
    "builders::a_key_in_a_record_that_leaves_its_folder_is_refused "
    "hostile_records::the_file_of_a_configuration_is_named "
    "hostile_report::a_stage_of_a_record_is_no_path",
    "A list names": "hostile::a_list_can_not_leave_the_root",
    "The content of a picture": "pictures::postscript_never_starts_a_program "
    "pictures::what_is_not_read_is_refused_by_its_true_name",
    "A picture above": "hostile::an_image_of_absurd_size_is_refused_before_it_is_decoded "
    "pictures::a_jpeg_of_many_scans_is_refused_before_it_is_decoded",
    "The content of a video": "video::a_playlist_that_calls_itself_a_video_reads_no_other_file",
    "A stream": "video::a_url_of_another_protocol_is_refused "
    "video::a_playlist_of_a_stream_reads_no_file",
    "A video with frames": "video::large_frames_are_refused_before_they_are_decoded",
    "Pipes and devices": "files::what_is_no_regular_file_or_too_large_is_not_read "
    "workdir::a_record_is_a_file_of_some_size "
    "hostile_report::files_of_a_run_are_regular_and_inside_it "
    "hostile_report::files_of_a_run_have_a_limit",
    "A report shows": "hostile_report::what_a_run_says_is_shown_as_text "
    "hostile_report::markdown_shows_any_text_as_it_is "
    "report_page::the_page_is_well_formed_and_loads_nothing",
    "Names from files": "errors::what_a_terminal_would_obey_is_escaped "
    "log::what_is_said_cannot_command_a_terminal",
    "No job overwrites": "predict::files_that_no_prediction_wrote_are_left_alone "
    "export::files_that_are_not_of_an_export_are_left_alone "
    "publish::publishing_overwrites_nothing_of_the_user "
    "retrieve::files_that_no_retrieval_wrote_are_left_alone "
    "report::a_file_of_the_users_own_is_not_overwritten "
    "report::only_what_an_earlier_report_wrote_is_replaced_or_removed "
    "media::no_result_replaces_another",
    "A second job": "files::a_second_writer_is_refused_until_the_first_has_ended "
    "files::a_killed_writer_frees_the_folder_and_its_rest_is_removed "
    "cli::no_two_jobs_check_data_into_one_workdir",
    "Processes of a job": "hosts::processes_that_differ_end_with_the_name_of_the_difference",
    "`tests/fuzz.py`": "fuzz::files_of_the_corpus_are_read_or_refused "
    "fuzz::a_failing_file_is_noticed",
}


def points():
    """What stands behind the dashes of SECURITY.md."""
    text = (ROOT / "SECURITY.md").read_text()
    return [" ".join(point.split()) for point in re.findall(r"(?ms)^- (.+?)(?=^- |^$|\Z)", text)]


def test_every_point_has_tests():
    if not (ROOT / "SECURITY.md").exists():
        pytest.skip("an sdist has the tests and not the documents")
    named = [[begin for begin in TESTS if point.startswith(begin)] for point in points()]
    assert named == [[begin] for begin in TESTS]


def test_every_test_exists():
    for name in " ".join(TESTS.values()).split():
        file, _, test = name.partition("::")
        tree = ast.parse((ROOT / "tests" / f"test_{file}.py").read_text())
        names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert f"test_{test}" in names, name


def test_jax_neither_encrypts_nor_authenticates():
    """Once it can, so should the program."""
    words = " ".join(inspect.signature(jax.distributed.initialize).parameters)
    assert not re.search("tls|ssl|cert|token|secret|password|credential|auth|key", words)
