"""The pairs of :mod:`.pairs` that more than 1 % of the simulator's runs meet, counted in 54,000 runs: table, event, states."""

PAIRS = """
fault | cancel unstarted | a client is away; a task is assigned; a task is done; a task is failed; a task is ready
fault | cancel unstarted | a task is waiting; a worker is away
fault | clear | a client is away; a task is assigned; a task is done; a task is failed; a task is ready
fault | clear | a task is waiting; a worker is away
fault | client dies | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | client dies | a task is idle; a task is ready; a task is waiting; a worker is away; a worker is suspect
fault | client dies | a worker retires; recovering; scheduler down; two schedulers; writing
fault | client leaves | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | client leaves | a task is idle; a task is ready; a task is waiting; a worker is away; a worker is suspect
fault | client leaves | a worker retires; nothing to do; recovering; scheduler down; two schedulers; writing
fault | cut | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | cut | a task is idle; a task is ready; a task is waiting; a worker is away; a worker is suspect
fault | cut | a worker retires; journal fails; nothing to do; recovering; scheduler down; two schedulers; writing
fault | cut client | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | cut client | a task is idle; a task is ready; a task is waiting; a worker is away; a worker is suspect
fault | cut client | a worker retires; recovering; scheduler down; two schedulers; writing
fault | cut greeting | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | cut greeting | a task is idle; a task is ready; a task is waiting; a worker is away; a worker is suspect
fault | cut greeting | a worker retires; journal fails; nothing to do; recovering; two schedulers; writing
fault | disk full | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | disk full | a task is idle; a task is ready; a task is waiting; a worker is away; a worker is suspect
fault | disk full | a worker retires; recovering; scheduler down; two schedulers; writing
fault | dismiss | a client is away; a task is assigned; a task is done; a task is failed; a task is ready
fault | dismiss | a task is waiting; a worker is away
fault | drift | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | drift | a task is idle; a task is ready; a task is waiting; a worker is away; a worker is suspect
fault | drift | a worker retires; recovering; scheduler down; two schedulers; writing
fault | echo | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | echo | a task is idle; a task is ready; a task is waiting; a worker is away; a worker is suspect
fault | echo | a worker retires; writing
fault | executor does not start | a client is away; a task is assigned; a task is awaited; a task is done
fault | executor does not start | a task is failed; a task is idle; a task is ready; a task is waiting
fault | executor does not start | a worker is away; a worker retires; nothing to do; writing
fault | failed write | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | failed write | a task is ready; a task is waiting; a worker is away; journal fails; recovering; two schedulers
fault | failed write | writing
fault | fenced | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | fenced | a task is idle; a task is ready; a task is waiting; a worker is away; a worker is suspect
fault | fenced | a worker retires; recovering; scheduler down; two schedulers; writing
fault | flip | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | flip | a task is idle; a task is ready; a task is waiting; a worker is away; a worker is suspect
fault | flip | a worker retires; recovering; scheduler down; two schedulers; writing
fault | gap | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | gap | a task is idle; a task is ready; a task is waiting; a worker is away; a worker retires; writing
fault | given up | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | given up | a task is idle; a task is ready; a task is waiting; a worker is away; a worker is suspect
fault | given up | a worker retires; nothing to do; two schedulers; writing
fault | journal fails | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | journal fails | a task is ready; a task is waiting; a worker is away; journal fails; recovering
fault | journal fails | scheduler down; two schedulers; writing
fault | kill executor | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | kill executor | a task is idle; a task is ready; a task is waiting; a worker is away; a worker is suspect
fault | kill executor | a worker retires; recovering; scheduler down; two schedulers; writing
fault | kill scheduler | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | kill scheduler | a task is idle; a task is ready; a task is waiting; a worker is away; a worker is suspect
fault | kill scheduler | a worker retires; journal fails; nothing to do; recovering; scheduler down; two schedulers
fault | kill scheduler | writing
fault | kill worker | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | kill worker | a task is idle; a task is ready; a task is waiting; a worker is away; a worker is suspect
fault | kill worker | a worker retires; recovering; scheduler down; two schedulers; writing
fault | leave | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | leave | a task is idle; a task is ready; a task is waiting; a worker is away; a worker is suspect
fault | leave | a worker retires; recovering; scheduler down; two schedulers; writing
fault | logs | a client is away; a task is assigned; a task is done; a task is failed; a task is idle; a task is ready
fault | logs | a task is waiting; a worker is away; scheduler down; writing
fault | lose | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | lose | a task is idle; a task is ready; a task is waiting; a worker is away; a worker retires; nothing to do
fault | lose | writing
fault | lose file | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | lose file | a task is idle; a task is ready; a task is waiting; a worker is away; a worker is suspect
fault | lose file | a worker retires; recovering; scheduler down; two schedulers; writing
fault | memory | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | memory | a task is idle; a task is ready; a task is waiting; a worker is away; a worker is suspect
fault | memory | a worker retires; recovering; scheduler down; two schedulers; writing
fault | one-way cut | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | one-way cut | a task is idle; a task is ready; a task is waiting; a worker is away; a worker is suspect
fault | one-way cut | a worker retires; recovering; scheduler down; two schedulers; writing
fault | park | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | park | a task is idle; a task is ready; a task is waiting; a worker is away; a worker is suspect
fault | park | a worker retires; recovering; scheduler down; two schedulers; writing
fault | pause client | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | pause client | a task is idle; a task is ready; a task is waiting; a worker is away; a worker is suspect
fault | pause client | a worker retires; recovering; scheduler down; two schedulers; writing
fault | pause scheduler | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | pause scheduler | a task is idle; a task is ready; a task is waiting; a worker is away; a worker retires
fault | pause scheduler | recovering; scheduler down; two schedulers; writing
fault | pause worker | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | pause worker | a task is idle; a task is ready; a task is waiting; a worker is away; a worker is suspect
fault | pause worker | a worker retires; recovering; scheduler down; two schedulers; writing
fault | publish | a client is away; a task is assigned; a task is done; a task is failed; a task is idle
fault | publish | a task is ready; a task is waiting; a worker is away; scheduler down; writing
fault | rebalance | a client is away; a task is assigned; a task is done; a task is failed; a task is idle
fault | rebalance | a task is ready; a task is waiting; a worker is away; scheduler down; writing
fault | replaced | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | replaced | a task is idle; a task is ready; a task is waiting; a worker is away; a worker is suspect
fault | replaced | a worker retires; recovering; two schedulers; writing
fault | reorder | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | reorder | a task is idle; a task is ready; a task is waiting; a worker is away; a worker retires
fault | reorder | nothing to do; writing
fault | repeat | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | repeat | a task is idle; a task is ready; a task is waiting; a worker is away; a worker retires; nothing to do
fault | repeat | writing
fault | replicate | a client is away; a task is assigned; a task is done; a task is failed; a task is idle
fault | replicate | a task is ready; a task is waiting; a worker is away; scheduler down; writing
fault | restart | a client is away; a task is assigned; a task is done; a task is failed; a task is idle
fault | restart | a task is ready; a task is waiting; a worker is away; scheduler down; writing
fault | retire | a client is away; a task is assigned; a task is done; a task is failed; a task is ready
fault | retire | a task is waiting; a worker is away; a worker retires
fault | retry | a client is away; a task is assigned; a task is done; a task is failed; a task is idle
fault | retry | a task is ready; a task is waiting; a worker is away; scheduler down; writing
fault | rolling restart | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | rolling restart | a task is idle; a task is ready; a task is waiting; a worker is away; a worker is suspect
fault | rolling restart | a worker retires; recovering; scheduler down; two schedulers; writing
fault | silence | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | silence | a task is idle; a task is ready; a task is waiting; a worker is away; a worker is suspect
fault | silence | a worker retires; journal fails; nothing to do; recovering; scheduler down; two schedulers; writing
fault | status | a client is away; a task is assigned; a task is done; a task is failed; a task is idle
fault | status | a task is ready; a task is waiting; a worker is away; scheduler down; writing
fault | stood down | a client is away; a task is awaited; a task is done; a task is failed; a task is ready
fault | stood down | a task is waiting; recovering; two schedulers
fault | stop executor | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | stop executor | a task is idle; a task is ready; a task is waiting; a worker is away; a worker is suspect
fault | stop executor | a worker retires; recovering; scheduler down; two schedulers; writing
fault | swallow | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | swallow | a task is idle; a task is ready; a task is waiting; a worker is away; a worker is suspect
fault | swallow | a worker retires; recovering; scheduler down; two schedulers; writing
fault | take over | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | take over | a task is ready; a task is waiting; a worker is away; recovering; scheduler down; two schedulers
fault | take over | writing
fault | unpublish | a client is away; a task is assigned; a task is done; a task is failed; a task is idle
fault | unpublish | a task is ready; a task is waiting; a worker is away; scheduler down; writing
fault | until_ended | a client is away; a task is assigned; a task is done; a task is failed; a task is idle
fault | until_ended | a task is ready; a task is waiting; a worker is away; scheduler down; writing
fault | upload | a client is away; a task is assigned; a task is done; a task is failed; a task is idle
fault | upload | a task is ready; a task is waiting; a worker is away; scheduler down; writing
future | DropData | cancelled; released
future | Erred | cancelled; error; finished; pending; released
future | Finished | error; finished; pending; released
future | Peer | unknown worker
future | PeerState | known worker
future | Supply | finished; pending; released
greeting | HelloClient | known number; new
greeting | HelloWorker | awaited after a restart; known process; new; replaces another process
greeting | Resume | away; connected; read from the journal; unknown
job | Abort | given to an executor; parked; queued; stored; unknown
job | Copy | unknown
job | Free | being fetched; stored; unknown
job | Located | being fetched; stored; unknown
job | Park | given to an executor; queued; unknown
job | Recall | given to an executor; parked; queued; stored; unknown
job | Verify | stored; unknown
sender | Answered | as usual; recovering; retiring
sender | Beat | as usual; journal fails; recovering; retiring; suspect; told to stop
sender | Bye | as usual; recovering
sender | Cancel | as usual; recovering
sender | CopyFailed | as usual
sender | Crashed | as usual
sender | Done | as usual; journal fails; retiring; suspect
sender | Failed | as usual
sender | Function | as usual; journal fails; recovering
sender | Have | as usual; retiring
sender | InputLost | as usual
sender | Intake | as usual
sender | Inventory | as usual
sender | Keeps | as usual; recovering
sender | Leaving | as usual; journal fails; recovering
sender | Left | told to stop
sender | Locate | as usual
sender | Missing | as usual; retiring
sender | NotSupplied | as usual
sender | Parked | as usual; retiring
sender | Query clear | as usual
sender | Query datasets | as usual; recovering
sender | Query demand | as usual; recovering
sender | Query dismiss | as usual
sender | Query end_session | as usual
sender | Query incidents | as usual; recovering
sender | Query keys | as usual; recovering
sender | Query logs | as usual; recovering
sender | Query publish | as usual; recovering
sender | Query rebalance | as usual; recovering
sender | Query replicate | as usual; recovering
sender | Query restart | as usual; recovering
sender | Query retire | as usual
sender | Query snapshot | as usual; recovering
sender | Query status | as usual; recovering
sender | Query unpublish | as usual
sender | Query until_ended | as usual; recovering
sender | Query upload | as usual; recovering
sender | Query workers | as usual; recovering
sender | Recalled | as usual; retiring; told to stop
sender | Release | as usual; journal fails; recovering
sender | Rescued | as usual; journal fails; retiring
sender | Retry | as usual; recovering
sender | Scatter | as usual
sender | Submit | as usual; journal fails; recovering
sender | Unreachable | as usual
sender | WorkerLog | as usual
task | Cancel | assigned; done; ready; waiting
task | CopyFailed | assigned, another attempt; done; forgotten
task | Crashed | assigned
task | Done | assigned; done; forgotten
task | Failed | assigned
task | Have | awaited; done
task | Hello: finished | assigned; awaited; done; forgotten; ready; waiting
task | Hello: running | ready; waiting
task | Hello: stored | assigned; awaited; done; forgotten; idle; ready; waiting
task | InputLost | assigned
task | Keeps | awaited; done
task | Locate | done
task | Missing | done
task | NotSupplied | awaited
task | Parked | assigned; forgotten
task | Recalled | assigned
task | Release | assigned; awaited; cancelled; done; failed; no future; ready; waiting
task | Retry | failed
task | Scatter | no future
task | Submit | assigned; awaited; cancelled; done; failed; key: assigned; key: done; key: failed; key: ready
task | Submit | key: waiting; ready; waiting
task | Unreachable | done
transition | accepted | idle
transition | adopted | ready
transition | broken | idle
transition | ended | assigned; awaited; ready; waiting
transition | freed | done
transition | input lost | ready
transition | inputs there | waiting
transition | lost | done
transition | paused | idle
transition | placed | ready
transition | read awaited | idle
transition | read done | idle
transition | read failed | idle
transition | read waiting | idle
transition | retried | failed
transition | sent ahead | waiting
transition | to be read | idle
transition | to be supplied | idle
transition | unclaimed | awaited
transition | wanted | idle
worker | Abort | as usual
worker | Audit | as usual
worker | Compute | as usual; short of memory
worker | Copy | as usual
worker | ForgetFunctions | as usual
worker | Free | as usual; renewing executors; short of memory
worker | Install | as usual
worker | Located | as usual
worker | Park | as usual
worker | Peer | as usual; short of memory
worker | PeerState | as usual
worker | ReadLog | as usual
worker | Recall | as usual
worker | Renew | as usual
worker | Rescue | as usual
worker | Stop | as usual
worker | Verify | as usual
worker | WorkerFunction | as usual
"""
