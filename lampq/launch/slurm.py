"""Jobs of a grid on a SLURM cluster, as one array: ``hydra/launcher=slurm``.

Submission is hydra-submitit-launcher's; waiting is our own. A job that is lost (killed, out of memory, its node gone)
leaves the others alone, and squeue is all that is asked, so a cluster without accounting (sacct) is enough.

A job that is preempted or runs out of time is queued again by submitit and finds on disk what it had computed.
"""

import contextlib
import io
import logging
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra_plugins.hydra_submitit_launcher import submitit_launcher
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

from lampq.errors import LampQError

log = logging.getLogger(__name__)

LOOK = 1.0
"""How often the jobs' answers are looked for, in seconds; they are files."""
ASK = 10.0
"""How often SLURM is asked for what became of the others, in seconds."""
LATE = 20.0
"""How long after a job's end its answer may show up, in seconds: shared file systems take their time."""
ENDED = frozenset(
    [
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "TIMEOUT",
        "forgotten",
    ]
)
"""States of a job that runs no more, unless it is queued again within `LATE` seconds; forgotten is our own word."""


class SlurmLauncher(submitit_launcher.SlurmLauncher):
    """Submits jobs and waits for all of them.

    Args:
        params: see conf/hydra/launcher/slurm.yaml.
    """

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Run jobs on the cluster.

        Returns:
            One answer a job, in their order; that of a lost job is a failure with the reason.

        Raises:
            LampQError: SLURM does not take them.
        """
        jobs = self._submit(job_overrides, initial_job_idx)
        array, logs = jobs[0].job_id.partition("_")[0], jobs[0].paths.folder.parent
        log.info("%d jobs are with SLURM as %s; what they say is in %s", len(jobs), array, logs)
        try:
            return self._wait(jobs, job_overrides, initial_job_idx, array)
        except KeyboardInterrupt:
            log.warning("the jobs go on: `scancel %s` ends them", array)
            raise

    def checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        """Called in a job that has to stop, before it is queued again; there is nothing left to save.

        SLURM ends all processes of a preempted job by a second signal: it must not reach the scontrol that submitit
        calls next, or the job would end as failed.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        return super().checkpoint(*args, **kwargs)

    def _submit(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[Any]:
        if shutil.which("sbatch") is None or shutil.which("srun") is None:
            remedy = "run the command where SLURM's jobs are submitted, or leave hydra/launcher out"
            raise LampQError(f"hydra/launcher=slurm: there is no sbatch here; {remedy}")
        import submitit  # late: Hydra looks at this module whatever is asked for

        params = dict(self.params)
        folder, retries = params.pop("submitit_folder"), params.pop("max_num_timeout")
        shared = BaseQueueConf.__dataclass_fields__
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            log.info("\t#%d : %s", number, " ".join(overrides))
        state = Singleton.get_state()
        calls = [(list(o), "hydra.sweep.dir", n, f"{n}", state) for n, o in enumerate(job_overrides, initial_job_idx)]
        try:
            executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=retries)
            executor.update_parameters(**{k if k in shared else f"slurm_{k}": v for k, v in params.items()})
            with contextlib.redirect_stderr(io.StringIO()):  # what sbatch says is in the exception as well
                return executor.map_array(self, *zip(*calls, strict=True))
        except submitit.core.utils.FailedJobError as error:
            said = " ".join(re.sub(r"^sbatch: (error|fatal): ", "", str(error), flags=re.MULTILINE).split())
            raise LampQError(f"hydra/launcher=slurm: {said}; --cfg hydra shows what is asked for") from error
        except (NameError, TypeError, ValueError) as error:
            raise LampQError(f"hydra.launcher: {str(error).splitlines()[0]}; see hydra/launcher/slurm.yaml") from error

    def _wait(
        self, jobs: list[Any], job_overrides: Sequence[Sequence[str]], initial_job_idx: int, array: str
    ) -> list[JobReturn]:
        answers: dict[int, JobReturn] = {}
        ended: dict[int, float] = {}  # jobs without an answer that run no more, and since when
        asked = time.monotonic()
        while len(answers) < len(jobs):
            time.sleep(LOOK)
            ask = time.monotonic() - asked >= ASK
            states = _states(array) if ask else None
            asked = time.monotonic() if ask else asked
            for number, job in enumerate(jobs):
                if number in answers:
                    continue
                if _has_answered(job):
                    answers[number] = self._answer(job, job_overrides[number])
                elif states is not None:
                    state = states.get(job.job_id, "forgotten")
                    since = ended.setdefault(number, time.monotonic()) if state in ENDED else ended.pop(number, None)
                    if state in ENDED and time.monotonic() - since >= LATE:
                        answers[number] = _lost(job, job_overrides[number], state)
                if number in answers:
                    good = answers[number].status is JobStatus.COMPLETED
                    word = "done" if good else f"failed: {' '.join(str(answers[number]._return_value).split())}"
                    log.info("#%d %s (%d of %d)", initial_job_idx + number, word, len(answers), len(jobs))
        return [answers[number] for number in range(len(jobs))]

    def _answer(self, job: Any, overrides: Sequence[str]) -> JobReturn:
        try:
            return job.result()
        except Exception as error:  # what went wrong in submitit itself, outside our job
            lines = [line for line in str(error).splitlines() if line.strip("- ")]
            reason = next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "no reason")
            return _failure(overrides, f"its SLURM job {job.job_id} failed ({reason}); see {job.paths.stderr}")


def _has_answered(job: Any) -> bool:
    with contextlib.suppress(OSError):
        job.paths.folder.touch()  # makes a network file system look again
    return job.paths.result_pickle.exists()


def _lost(job: Any, overrides: Sequence[str], state: str) -> JobReturn:
    ended = "is gone" if state in ("forgotten", "COMPLETED") else f"ended as {state}"
    more = f"{job.paths.stderr} may say why; run the same command again to resume"
    return _failure(overrides, f"its SLURM job {job.job_id} {ended} without an answer; {more}")


def _failure(overrides: Sequence[str], reason: str) -> JobReturn:
    answer = JobReturn(overrides=list(overrides), status=JobStatus.FAILED)
    answer.return_value = LampQError(reason)
    return answer


def _states(array: str) -> dict[str, str] | None:
    """States of an array's jobs that SLURM remembers, by their ids; None where it does not answer."""
    command = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={array}", "--format=%F_%K %T %A"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if answer.returncode:
        return {} if "Invalid job id" in answer.stderr else None
    states = {}
    for line in answer.stdout.splitlines():
        member, state, alone = line.split()
        states[member] = states[alone] = state  # a job that is no array is known by its own id
    return states
