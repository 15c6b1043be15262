#!/bin/bash
# One element of a SLURM array: one task of a launch of surge-sweep.
#   element.sh LAUNCH_FOLDER FIRST_TASK TETHER COMMAND...
# It runs COMMAND LAUNCH_FOLDER TASK, and sends the element back to the queue where the task made room for others.
# TETHER is a program for COMMAND's interpreter that ends it with this script; it may be empty.
launch=$1
task=$(($2 + SLURM_ARRAY_TASK_ID))
tether=$3
shift 3
[ -z "$tether" ] || set -- "$1" -I "$tether" "$$" "$@"

is_cancelled() { [ -e "$launch/cancelled/all" ] || [ -e "$launch/cancelled/$task" ]; }

# Noted as over, or given up by its user: a newer launch may have its trials.
if [ -e "$launch/over" ]; then
    echo "the launch is noted as over: task $task does not start, since a newer launch may have its trials" >&2
    exit 1
fi
# Cancelled while it was on its way back to the queue.
is_cancelled && exit 85

# USR2 comes before the time limit, and on some clusters before preemption: to this script alone, which passes it on.
# TERM comes to every process of the job: on preemption, after which SLURM itself puts the job back into the queue, and
# when the job is cancelled, after which nobody should.
signals='' room='' ended='' program=''
trap 'signals+=2; room=asked; [ -z "$program" ] || kill -USR2 "$program" 2> /dev/null' USR2
trap 'signals+=1; ended=asked' TERM

export PYTHONUNBUFFERED=1
"$@" "$launch" "$task" &
program=$!
# One that came before there was anyone to pass it on to.
[ -z "$room" ] || kill -USR2 "$program" 2> /dev/null
[ -z "$ended" ] || kill -TERM "$program" 2> /dev/null
while
    before=$signals
    wait "$program"
    code=$?
    # A signal cuts the wait short.
    [ "$before" != "$signals" ]
do :; done

# 140: it was asked so early that it had nothing to save.
if [ -n "$room" ] && [ -z "$ended" ] && { [ "$code" = 85 ] || [ "$code" = 140 ]; } && ! is_cancelled; then
    echo "the task made room; it goes on when its turn comes again"
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
fi
exit "$code"
