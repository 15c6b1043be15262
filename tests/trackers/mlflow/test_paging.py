"""Listings are whole although entries are deleted while their pages come, from a database and from a server."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from mlflow import MlflowClient
from mlflow_stores import MlflowServer
from mlflow_stores.proxy import Proxy, Request

from surge_sweeps.trackers.mlflow import paging
from surge_sweeps.trackers.mlflow.client import search_all_runs
from surge_sweeps.trackers.mlflow.http.connection import Server
from surge_sweeps.trackers.mlflow.http.listing import list_runs
from surge_sweeps.trackers.mlflow.paging import page_token, whole_listing

STARTS = [10, 20, 20, 20, 20, 20, 20, 30, 40, 50, 60]


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "PAGE", 4)


def make_runs(client: MlflowClient, project: str) -> tuple[str, list[str]]:
    """An experiment with runs of which several began at the same moment; their ids in the order of a listing."""
    number = client.create_experiment(project)
    runs = [(start, client.create_run(number, start_time=start).info.run_id) for start in STARTS]
    return number, [run for _, run in sorted(runs)]


@pytest.mark.parametrize("deleted", [[0], [3], [0, 1, 2, 3], [1, 5], []], ids=str)
def test_runs_deleted_between_two_pages_hide_no_other(client: MlflowClient, deleted: list[int]) -> None:
    number, runs = make_runs(client, "pages")
    found = []
    for run in search_all_runs(client, [number]):
        found.append(run.info.run_id)
        if len(found) == 4:
            for index in deleted:
                client.delete_run(runs[index])
    assert found == [run for index, run in enumerate(runs) if index < 4 or index not in deleted]


@pytest.mark.parametrize("deleted", [[0], [0, 1, 2, 3], list(range(8))], ids=str)
def test_a_server_s_runs_deleted_between_two_pages_hide_no_other(
    shared_server: MlflowServer, deleted: list[int]
) -> None:
    client = MlflowClient(shared_server.uri)
    number, runs = make_runs(client, f"pages-{len(deleted)}")
    pages = []

    def rule(request: Request) -> Request:
        pages.append(request)
        if len(pages) == 3:  # between the second page and the third
            for index in deleted:
                client.delete_run(runs[index])
        return request

    with Proxy(shared_server.uri, rule) as proxy:
        server = Server(proxy.uri)
        pages.clear()
        found = [run.run for run in list_runs(server, number, lambda count: None).runs]
    assert found == [run for index, run in enumerate(runs) if index < 7 or index not in deleted]


def listing(entries: str, between: Callable[[int], str], token: Callable[[int], str]) -> str:
    """What is listed of one-letter entries that become others before each page but the first."""
    asked = 0

    def ask(given: str) -> tuple[str, str]:
        nonlocal entries, asked
        entries = between(asked) if asked else entries
        asked += 1
        offsets = {token(offset): offset for offset in range(99)} | {"": 0}
        start = offsets[given]
        following = token(start + 4) if start + 4 < len(entries) else ""
        return entries[start : start + 4], following

    return "".join(whole_listing(ask, str))


def test_entries_that_come_meanwhile_shift_none() -> None:
    assert listing("abcdefghij", lambda asked: "123"[:asked] + "abcdefghij", page_token) == "abcdefghij"


def test_everything_deleted_meanwhile_ends_the_listing() -> None:
    assert listing("abcdefghij", lambda asked: "", page_token) == "abcd"


def test_tokens_that_count_nothing_are_taken_as_they_are() -> None:
    def opaque(offset: int) -> str:
        return base64.b64encode(f"after {offset}".encode()).decode()

    assert listing("abcdefghij", lambda asked: "abcdefghij", opaque) == "abcdefghij"
